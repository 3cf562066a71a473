package policy

import (
	"context"
	"math"
	"strconv"
)

// World is the live data that a guest may ask for. Its methods are called
// concurrently, and for every request that asks: implementations keep their
// answers, absent tenants included, so that somebody who tries host names
// causes no work elsewhere.
type World interface {
	// Recall is Tenant from memory: known is false where somebody would have to
	// be asked. It returns at once.
	Recall(id string) (attributes string, ok, known bool)

	// Tenant looks up one tenant. The ID has passed tenantid.Check. Attributes
	// are lines as [Lines] writes them; ok is false when there is no such
	// tenant. An error means that nothing is known: the guest is told so, and
	// the error is logged. The context ends at the lookup's deadline or when
	// the client has gone.
	Tenant(ctx context.Context, id string) (attributes string, ok bool, err error)

	// Machines lists the live machines. It answers from memory.
	Machines(ctx context.Context) []Machine
}

// Machine is one live machine as a guest sees it.
type Machine struct {
	ID     string
	Region string  // may be empty
	Load   float64 // 0 is idle, 1 is full
	State  string  // "started", "draining"
}

// appendMachines writes one "id region load state" line a machine, "-" for a
// field that is empty. Names come from heartbeats in the bucket: a machine
// with one that could not be told from two fields is left out, and so is all
// that would exceed [MaxText].
func appendMachines(text []byte, machines []Machine) []byte {
	for _, m := range machines {
		if checkName(m.ID) != nil || m.Region != "" && checkName(m.Region) != nil || m.State != "" && checkName(m.State) != nil {
			continue
		}
		load := m.Load
		if math.IsNaN(load) || load < 0 {
			load = 0
		}
		end := len(text)
		text = append(text, m.ID...)
		text = append(text, ' ')
		text = append(text, orDash(m.Region)...)
		text = append(text, ' ')
		text = strconv.AppendFloat(text, min(load, 1000), 'f', 2, 64)
		text = append(text, ' ')
		text = append(text, orDash(m.State)...)
		text = append(text, '\n')
		if len(text) > MaxText {
			return text[:end]
		}
	}
	return text
}

func orDash(field string) string {
	if field == "" {
		return "-"
	}
	return field
}

// emptyWorld knows no tenant and no machine. It stands in where the caller has
// none, and during the probe, which must not reach for the bucket.
type emptyWorld struct{}

var _ World = emptyWorld{}

func (emptyWorld) Recall(string) (string, bool, bool) { return "", false, true }

func (emptyWorld) Tenant(context.Context, string) (string, bool, error) { return "", false, nil }

func (emptyWorld) Machines(context.Context) []Machine { return nil }
