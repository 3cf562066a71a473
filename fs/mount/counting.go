package mount

import "github.com/hanwen/go-fuse/v2/fuse"

// This file defines the count of what the kernel asks, which shows whether a
// file is really passed through: the figures of the benchmark rest on it.

// counting counts the requests that an application's work on its files causes.
// What the kernel sends by itself when it drops a name is not counted.
type counting struct {
	fuse.RawFileSystem
	ops *operations
}

func (c counting) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	c.ops.requests.Add(1)
	return c.RawFileSystem.Lookup(cancel, header, name, out)
}

func (c counting) GetAttr(cancel <-chan struct{}, input *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	c.ops.requests.Add(1)
	return c.RawFileSystem.GetAttr(cancel, input, out)
}

func (c counting) SetAttr(cancel <-chan struct{}, input *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	c.ops.requests.Add(1)
	return c.RawFileSystem.SetAttr(cancel, input, out)
}

func (c counting) Unlink(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	c.ops.requests.Add(1)
	return c.RawFileSystem.Unlink(cancel, header, name)
}

func (c counting) Access(cancel <-chan struct{}, input *fuse.AccessIn) fuse.Status {
	c.ops.requests.Add(1)
	return c.RawFileSystem.Access(cancel, input)
}

func (c counting) Create(cancel <-chan struct{}, input *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	c.ops.requests.Add(1)
	return c.RawFileSystem.Create(cancel, input, name, out)
}

func (c counting) Open(cancel <-chan struct{}, input *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	c.ops.requests.Add(1)
	return c.RawFileSystem.Open(cancel, input, out)
}

func (c counting) Read(cancel <-chan struct{}, input *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	c.ops.requests.Add(1)
	return c.RawFileSystem.Read(cancel, input, buf)
}

func (c counting) Write(cancel <-chan struct{}, input *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	c.ops.requests.Add(1)
	return c.RawFileSystem.Write(cancel, input, data)
}

func (c counting) Writev(cancel <-chan struct{}, input *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	c.ops.requests.Add(1)
	return c.RawFileSystem.Writev(cancel, input, data)
}

func (c counting) Flush(cancel <-chan struct{}, input *fuse.FlushIn) fuse.Status {
	c.ops.requests.Add(1)
	return c.RawFileSystem.Flush(cancel, input)
}

func (c counting) Fsync(cancel <-chan struct{}, input *fuse.FsyncIn) fuse.Status {
	c.ops.requests.Add(1)
	return c.RawFileSystem.Fsync(cancel, input)
}

func (c counting) Lseek(cancel <-chan struct{}, input *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	c.ops.requests.Add(1)
	return c.RawFileSystem.Lseek(cancel, input, out)
}

func (c counting) GetXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	c.ops.requests.Add(1)
	return c.RawFileSystem.GetXAttr(cancel, header, attr, dest)
}

func (c counting) OpenDir(cancel <-chan struct{}, input *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	c.ops.requests.Add(1)
	return c.RawFileSystem.OpenDir(cancel, input, out)
}

func (c counting) FsyncDir(cancel <-chan struct{}, input *fuse.FsyncIn) fuse.Status {
	c.ops.requests.Add(1)
	return c.RawFileSystem.FsyncDir(cancel, input)
}

func (c counting) Release(cancel <-chan struct{}, input *fuse.ReleaseIn) {
	c.ops.requests.Add(1)
	c.RawFileSystem.Release(cancel, input)
}
