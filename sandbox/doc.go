// Package sandbox runs one tenant's program so that it sees one tenant's world.
//
// [Start] re-executes the running binary as a tiny init in new mount, PID, IPC,
// UTS, network and cgroup namespaces. The init builds a root of its own, gives
// up every privilege, starts the command and stays as process 1: it reaps what
// the command leaves behind and ends when the command ends or when the process
// that called Start does, whatever killed it. With the init the kernel kills
// everything else in the sandbox.
//
//	func main() {
//		sandbox.Init() // first: in the re-executed process it never returns
//		...
//		p, err := sandbox.Start(ctx, sandbox.Spec{
//			Name:    "acme",
//			Dir:     "/data/acme",
//			Command: []string{"/opt/app/server"},
//		})
//		conn, err := p.Dial(ctx) // to PORT inside
//		err = p.Stop(ctx, 10*time.Second)
//	}
//
// # What the program sees
//
// The image's folders (/usr, /bin, /sbin, /lib*, /etc, /opt, /srv and
// [Spec.Binds]) read-only; its own folder, writable, at [Spec.Mount]; an empty
// /tmp and /dev/shm in memory; a /dev of five nodes; a /proc that shows its own
// processes and in which nothing but those is writable; a loopback interface
// and nothing else of a network. It has no capability in any namespace and can
// get none: no_new_privs is set and it lives in a chroot, where the kernel
// refuses new user namespaces. Its environment is [Spec.Env] and the few
// variables named there; its descriptors are 0, 1 and 2.
//
// The folder that contains [Spec.Dir], and so other tenants' folders, and what
// [Spec.Hide] names stay out of sight also where a bound folder contains them.
//
// # Where it runs
//
// It needs root, or to be user 0 of a user namespace in which one id suffices;
// Linux 5.12 for the mount calls. Start never looks at Spec.Dir itself: only
// the init does, so the folder may be on a FUSE mount that the calling process
// serves. Such a process should not hold files of its own mount open while it
// calls Start: a child's copies are flushed when it executes, and the runtime
// cannot stop the world until the child has.
//
// # Limitations
//
// Nothing bounds memory, processor time or the number of processes, and there
// is no system call filter: the kernel log (dmesg) and the machine's load
// figures in /proc are readable. Without [Spec.User] the program keeps the
// caller's user, which for root means that it reads what root may read in the
// bound folders; tenants of one user share that user's kernel keyring and
// limits. In a user namespace that forbids setgroups the caller's supplementary
// groups remain. There is no terminal and no /sys.
package sandbox
