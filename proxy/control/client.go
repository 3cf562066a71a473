// This file is the client of the API, for the command line and for tests.

package control

import (
	"context"
	"encoding/json"
	stderrors "errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"atc/fs/errors"
)

// Client asks one running atc. Its methods may be called concurrently.
type Client struct {
	http *http.Client
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 20

// Dial finds out that an atc answers on the socket at path. If none does, the
// error is of kind NotExist. Close has to be called.
func Dial(ctx context.Context, path string) (*Client, error) {
	c := &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, path) },
	}}}
	if _, err := c.Health(ctx); err != nil {
		c.Close()
		if stderrors.Is(err, fs.ErrNotExist) || stderrors.Is(err, syscall.ECONNREFUSED) {
			return nil, errors.E("dial", path, errors.NotExist, fmt.Errorf("no atc is running there: %w", err))
		}
		return nil, fmt.Errorf("asking atc at %s: %w", path, err)
	}
	return c, nil
}

// Close drops the connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// Health asks who is there.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var h Health
	return h, c.get(ctx, "/v1/health", nil, &h)
}

// Stat asks about "" (everything), "TENANT" or "TENANT/PATH".
func (c *Client) Stat(ctx context.Context, pattern string) (FSStat, error) {
	query := url.Values{}
	if pattern != "" {
		id, database, has := strings.Cut(pattern, "/")
		query.Set("tenant", id)
		if has {
			query.Set("database", database)
		}
	}
	var s FSStat
	return s, c.get(ctx, "/v1/fs/stat", query, &s)
}

// Instances lists the applications' processes.
func (c *Client) Instances(ctx context.Context) ([]InstanceStat, error) {
	var list instances
	err := c.get(ctx, "/v1/instances", nil, &list)
	return list.Instances, err
}

// ReloadPolicy has the resolver replaced by its configuration and its module as
// they are now.
func (c *Client) ReloadPolicy(ctx context.Context) error {
	return c.ask(ctx, http.MethodPost, "/v1/policy/reload", nil, &struct{}{})
}

func (c *Client) get(ctx context.Context, path string, query url.Values, into any) error {
	return c.ask(ctx, http.MethodGet, path, query, into)
}

func (c *Client) ask(ctx context.Context, method, path string, query url.Values, into any) error {
	u := url.URL{Scheme: "http", Host: "atc", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return errors.E("read answer", path, errors.NoSpace, fmt.Errorf("it is longer than %d bytes", maxAnswer))
	}
	if res.StatusCode != http.StatusOK {
		return failed(path, res.StatusCode, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return errors.E("read answer", path, errors.Corrupt, err)
	}
	return nil
}

// failed makes of an answer the error that the server had.
func failed(path string, status int, body []byte) error {
	var f failure
	if json.Unmarshal(body, &f) != nil || f.Error.Message == "" {
		return errors.E("ask", path, errors.Other, fmt.Errorf("HTTP status %d", status))
	}
	kind := errors.Other
	for k := errors.Other; k <= errors.Canceled; k++ {
		if k.String() == f.Error.Kind {
			kind = k
		}
	}
	return &remote{errors.E("ask", path, kind, nil), f.Error.Message}
}

// remote has the kind of the server's error and its text, which already says
// what was done to what.
type remote struct {
	error
	text string
}

func (r *remote) Error() string { return r.text }
func (r *remote) Unwrap() error { return r.error }
