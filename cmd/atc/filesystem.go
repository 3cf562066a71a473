package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"atc/fs/bucket"
	"atc/fs/errors"
	"atc/fs/mount"
	"atc/fs/volume"
	"atc/proxy/control"
)

// This file wires the lower half of atc, which every command but fs needs:
// bucket, volume, mount and control socket.

// filesystemOptions say what is mounted where.
type filesystemOptions struct {
	Store       string
	Mountpoint  string
	Passthrough bool
	Instances   control.Instances // for the control API; nil where there are none
	// Volume is what it says itself; its bucket is opened here.
	Volume volume.Options
}

// filesystem is a mounted volume and its control socket.
type filesystem struct {
	opts    filesystemOptions
	volume  *volume.Volume
	mounted *mount.Mounted

	stopControl context.CancelFunc
	control     chan error
}

// unmountWithin is how long files may stay open after everything that atc runs
// has ended.
const unmountWithin = 5 * time.Second

// openFilesystem mounts. Whatever it opened it closes again where it fails.
func openFilesystem(ctx context.Context, o filesystemOptions) (_ *filesystem, err error) {
	if o.Volume.Cache, err = filepath.Abs(o.Volume.Cache); err != nil {
		return nil, err
	}
	if o.Mountpoint, err = filepath.Abs(o.Mountpoint); err != nil {
		return nil, err
	}
	b, err := bucket.Open(ctx, o.Store)
	if err != nil {
		return nil, err
	}
	o.Volume.Bucket = b
	fs := &filesystem{opts: o, control: make(chan error, 1)}
	fs.volume, err = volume.Open(ctx, o.Volume)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = stderrors.Join(err, fs.Close(context.WithoutCancel(ctx)))
		}
	}()
	fs.mounted, err = mount.Mount(ctx, o.Mountpoint, fs.volume, mount.Options{
		Name: o.Volume.Cache, NoPassthrough: !o.Passthrough, Untouched: true, Logger: o.Volume.Logger,
	})
	if err != nil {
		return nil, err
	}
	mountpoints.add(o.Mountpoint)
	l, err := control.Listen(filepath.Join(o.Volume.Cache, control.SocketName))
	if err != nil {
		return nil, err
	}
	server := &control.Server{
		Health: control.Health{
			Machine: fs.volume.Machine(), Session: fs.volume.Session(),
			Version: buildVersion(), PID: os.Getpid(), Started: time.Now(),
		},
		Filesystem: fsStats{fs.volume, o.Mountpoint},
		Instances:  o.Instances,
		Logger:     o.Volume.Logger,
	}
	serveCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	fs.stopControl = cancel
	go func() { fs.control <- server.Serve(serveCtx, l) }()
	return fs, nil
}

// Close unmounts, ships everything and releases the tenants.
func (fs *filesystem) Close(ctx context.Context) error {
	var errs []error
	if fs.stopControl != nil {
		fs.stopControl()
		errs = append(errs, <-fs.control)
	}
	if fs.mounted != nil {
		wait, cancel := context.WithTimeout(ctx, unmountWithin)
		errs = append(errs, fs.mounted.Unmount(wait))
		cancel()
		mountpoints.remove(fs.opts.Mountpoint)
	}
	if fs.volume != nil {
		errs = append(errs, fs.volume.Close(ctx))
	}
	return stderrors.Join(errs...)
}

// mountpoints are what the process has mounted, for the case that it must end
// at once.
var mountpoints mountSet

type mountSet struct {
	mu   sync.Mutex
	dirs []string
}

func (s *mountSet) add(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirs = append(s.dirs, dir)
}

func (s *mountSet) remove(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, d := range s.dirs {
		if d == dir {
			s.dirs = append(s.dirs[:i], s.dirs[i+1:]...)
			return
		}
	}
}

// detachAll takes down the mounts without waiting for anybody.
func detachAll() {
	mountpoints.mu.Lock()
	defer mountpoints.mu.Unlock()
	for _, dir := range mountpoints.dirs {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
}

// newLogger writes to standard error.
func newLogger(level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, errors.E("log level", level, errors.Invalid, fmt.Errorf("use debug, info, warn or error"))
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, o)), nil
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, o)), nil
	}
	return nil, errors.E("log format", format, errors.Invalid, fmt.Errorf("use text or json"))
}
