// Package instance keeps the running processes of the tenants' applications: it
// starts one when a request needs it, waits until it answers, holds it while
// anybody uses it, and stops it when nobody has for a while.
//
//	pool := instance.New(instance.Config{Open: open, IdleTimeout: 5 * time.Minute, Logger: log})
//	lease, err := pool.Acquire(ctx, "acme") // starts it, or waits for who does
//	if err != nil { ... }                   // errors.As(err, *instance.Unready) says when to come again
//	defer lease.Release()
//	conn, err := lease.Dial(ctx)
//
// # The life of an instance
//
//	stopped → starting → ready ⇄ idle → stopping → stopped
//	              ↘        ↓
//	               → crashed (for the backoff, then as stopped)
//
// A tenant has at most one instance. Requests that come while it starts or
// stops wait, at most [Config.MaxWaiting] of them; a request that gives up does
// not end the start for the others. Tenants never wait for each other. A
// stopped tenant costs no goroutine, no descriptor and no memory.
//
// A crash is noticed at once but repaired only when somebody asks: until the
// backoff is over (100 ms, doubling to 10 s, forgotten after a healthy minute)
// requests are answered with the exit status and the last lines of stderr.
//
// # Limitations
//
// There is no limit on how many instances run, and nothing is frozen instead of
// stopped. The lease's owner must notice that a connection broke because the
// process died; the pool does not retry a request.
package instance
