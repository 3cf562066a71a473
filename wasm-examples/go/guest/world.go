//go:build wasip1

package guest

import (
	"errors"
	"strconv"
	"strings"
	"unsafe"
)

// What the host knows: tenants, machines, the operator's configuration.

// ErrLookup says that nobody could tell whether a tenant exists.
var ErrLookup = errors.New("the lookup of a tenant failed")

// Attributes are "key: value" lines.
type Attributes string

// Get is the value of a key, or "".
func (a Attributes) Get(key string) string { return lookUp(string(a), key) }

// Tenant looks up a tenant; ok is false where there is none, or where the ID
// cannot be one. A request may ask for 16 tenants.
func Tenant(id string) (attributes Attributes, ok bool, err error) {
	var n int
	tenantBuffer, n = read(tenantBuffer, func(ptr unsafe.Pointer, capacity uint32) int32 {
		return hostTenant(unsafe.Pointer(unsafe.StringData(id)), uint32(len(id)), ptr, capacity)
	})
	switch {
	case n == -1:
		return "", false, nil
	case n < 0:
		return "", false, ErrLookup
	}
	return Attributes(tenantBuffer[:n]), true, nil
}

// tenantBuffer is used again by each question, like requestBuffer.
var tenantBuffer = make([]byte, 512)

// Machine is a live machine.
type Machine struct {
	ID, Region string
	Load       float64 // 0 is idle, 1 is full
	State      string
}

// Machines lists the live machines.
func Machines() []Machine {
	text, n := read(make([]byte, 2048), hostMachines)
	var machines []Machine
	for line := range strings.Lines(string(text[:n])) {
		f := strings.Fields(line)
		if len(f) != 4 {
			continue
		}
		load, _ := strconv.ParseFloat(f[2], 64)
		machines = append(machines, Machine{ID: f[0], Region: f[1], Load: load, State: f[3]})
	}
	return machines
}

// Config is the operator's configuration. It cannot change during the life of
// an instance, so what is made of it may be kept in a package variable.
func Config() Attributes {
	text, n := read(make([]byte, 2048), hostConfig)
	return Attributes(text[:n])
}
