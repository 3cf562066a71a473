// Package control is the control API of a running atc: plain JSON over HTTP on
// a unix socket in its cache folder, and the Go client that the command line
// uses. Who can open the socket (mode 0600) may ask everything.
//
//	GET /v1/health                            → Health
//	GET /v1/fs/stat[?tenant=ID[&database=P]]  → FSStat
//	GET /v1/instances                         → {"instances": [InstanceStat...]}
//	POST /v1/policy/reload                    → {}
//
// An error is answered with the status of its kind and
//
//	{"error": {"kind": "does not exist", "message": "..."}}
//
// from which the client makes an error of the same kind again. The messages are
// the Go types in message.go; their JSON names are the API.
//
//	l, err := control.Listen(filepath.Join(cache, control.SocketName))
//	err = (&control.Server{Health: h, Filesystem: fs}).Serve(ctx, l)
//
//	c, err := control.Dial(ctx, filepath.Join(cache, control.SocketName))
//	stat, err := c.Stat(ctx, "acme/main.sqlite3")
//	err = control.WriteTable(os.Stdout, stat)
//
// # Limitations
//
// A reading is not a snapshot: each number is right by itself. An answer is not
// paged; the client refuses one of more than 64 MiB.
package control
