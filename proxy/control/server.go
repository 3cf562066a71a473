// This file answers the API. What is served comes through two small interfaces;
// a server that lacks one (atc mount runs no instances) says so.

package control

import (
	"context"
	"encoding/json"
	stderrors "errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"atc/fs/errors"
	"atc/fs/tenant/tenantid"
)

// Filesystem tells about tenants and databases.
type Filesystem interface {
	// Stat takes "" for everything, "TENANT", or "TENANT/PATH" for one
	// database. The tenant's ID is well-formed. What is not there is an error
	// of kind NotExist. It opens nothing, is called concurrently, and its error
	// text is shown.
	Stat(ctx context.Context, pattern string) (FSStat, error)
}

// Instances tells about the applications' processes.
type Instances interface {
	// Instances lists those of every tenant that had one in this run. It is
	// called concurrently.
	Instances(ctx context.Context) ([]InstanceStat, error)
}

// Policy is the resolver.
type Policy interface {
	// Reload puts a successor in its place, or fails and leaves it. It is called
	// concurrently, and its error text is shown.
	Reload(ctx context.Context) error
}

// Server answers the control API. Its fields are set before it is used.
type Server struct {
	Health     Health       // Status is filled in
	Filesystem Filesystem   // nil: not served
	Instances  Instances    // nil: not served
	Policy     Policy       // nil: not served
	Logger     *slog.Logger // nil: discard
}

const (
	maxRequest     = 16 << 10         // bytes of request line and headers
	requestTimeout = 30 * time.Second // for one answer
	drainTimeout   = 2 * time.Second
)

// Serve answers until ctx ends or l fails, then lets requests finish for two
// seconds. It closes l, which removes the socket, and returns nil after ctx
// ended.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	log := s.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	requests, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	server := &http.Server{
		Handler:           s.handler(log),
		BaseContext:       func(net.Listener) context.Context { return requests },
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxRequest,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("control socket: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(requests, drainTimeout)
	defer cancel()
	err := server.Shutdown(drain)
	if stderrors.Is(err, context.DeadlineExceeded) {
		abort()
		err = server.Close()
	}
	<-failed
	if err != nil {
		return fmt.Errorf("closing the control socket: %w", err)
	}
	return nil
}

// endpoint makes one answer.
type endpoint struct {
	method string
	answer func(context.Context, *http.Request) (any, error)
}

func (s *Server) handler(log *slog.Logger) http.Handler {
	endpoints := map[string]endpoint{
		"/v1/health":        {http.MethodGet, s.health},
		"/v1/fs/stat":       {http.MethodGet, s.fsStat},
		"/v1/instances":     {http.MethodGet, s.instances},
		"/v1/policy/reload": {http.MethodPost, s.reloadPolicy},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		status, answer := http.StatusOK, any(nil)
		var err error
		serve, known := endpoints[r.URL.Path]
		switch {
		case !known:
			err = errors.E("find endpoint", r.URL.Path, errors.NotExist, nil)
		case r.Method != serve.method && (r.Method != http.MethodHead || serve.method != http.MethodGet):
			allow := serve.method
			if allow == http.MethodGet {
				allow = "GET, HEAD"
			}
			w.Header().Set("Allow", allow)
			status, err = http.StatusMethodNotAllowed, errors.E(r.Method, r.URL.Path, errors.Unsupported, nil)
		default:
			answer, err = serve.answer(ctx, r)
		}
		if err != nil {
			if status == http.StatusOK {
				status = errors.HTTPStatus(err)
			}
			var f failure
			f.Error.Kind, f.Error.Message = errors.KindOf(err).String(), err.Error()
			answer = f
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			log.Debug("control: answer not sent", "path", r.URL.Path, "error", err)
		}
	})
}

func (s *Server) health(context.Context, *http.Request) (any, error) {
	h := s.Health
	h.Status = "ok"
	return h, nil
}

func (s *Server) fsStat(ctx context.Context, r *http.Request) (any, error) {
	id, database, err := statQuery(r)
	if err != nil {
		return nil, err
	}
	if s.Filesystem == nil {
		return nil, errors.E("stat", "filesystem", errors.Unsupported, fmt.Errorf("this atc has none"))
	}
	pattern := id
	if database != "" {
		pattern += "/" + database
	}
	return s.Filesystem.Stat(ctx, pattern)
}

func statQuery(r *http.Request) (id, database string, err error) {
	invalid := func(format string, args ...any) error {
		return errors.E("read query", r.URL.Path, errors.Invalid, fmt.Errorf(format, args...))
	}
	for key, values := range r.URL.Query() {
		switch {
		case key != "tenant" && key != "database":
			return "", "", invalid("%q is not known: use tenant and database", key)
		case len(values) > 1:
			return "", "", invalid("%s is given %d times", key, len(values))
		case values[0] == "":
			return "", "", invalid("%s is empty", key)
		case key == "tenant":
			id = values[0]
		default:
			database = values[0]
		}
	}
	if id == "" && database != "" {
		return "", "", invalid("a database without its tenant")
	}
	if id != "" {
		if err := tenantid.Check(id); err != nil {
			return "", "", err
		}
	}
	if strings.ContainsRune(database, 0) {
		return "", "", invalid("a NUL in the database's path")
	}
	return id, database, nil
}

func (s *Server) instances(ctx context.Context, _ *http.Request) (any, error) {
	if s.Instances == nil {
		return nil, errors.E("list", "instances", errors.Unsupported, fmt.Errorf("this atc runs no applications"))
	}
	list, err := s.Instances.Instances(ctx)
	if list == nil {
		list = []InstanceStat{}
	}
	return instances{list}, err
}

func (s *Server) reloadPolicy(ctx context.Context, _ *http.Request) (any, error) {
	if s.Policy == nil {
		return nil, errors.E("reload", "resolver", errors.Unsupported, fmt.Errorf("this atc has none"))
	}
	return struct{}{}, s.Policy.Reload(ctx)
}
