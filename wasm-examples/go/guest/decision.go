//go:build wasip1

package guest

import (
	"strconv"
	"unsafe"
)

// Decision says where a request goes: to a tenant, or nowhere, with a status.
// Fields that are empty are left out.
type Decision struct {
	Tenant  string
	App     string
	Machine string   // must run there
	Region  string   // must run there
	Prefer  string   // the machine to start it on, if it runs nowhere yet
	Path    string   // forward with this path, percent-encoded
	Set     []Header // on the forwarded request; with Status, on the answer

	Cache string // "host 60": the same decision for the same host for 60 s

	Status   int
	Location string
	Body     string // one line
}

// Header is one header to set; its name is lower-case.
type Header struct{ Name, Value string }

// NotFound answers 404 with one line of explanation.
func NotFound(body string) Decision { return Decision{Status: 404, Body: body} }

// decisionBuffer is used again by each request, like requestBuffer.
var decisionBuffer = make([]byte, 0, 512)

// Resolve asks route about the request and hands its decision to the host. An
// error is logged and refuses the request: the client is answered 500.
func Resolve(route func(Request) (Decision, error)) int32 {
	d, err := route(readRequest())
	if err != nil {
		Log(Error, err.Error())
		return 1
	}
	b := decisionBuffer[:0]
	if d.Tenant != "" {
		b = appendLine(b, "tenant: ", d.Tenant)
	}
	if d.App != "" {
		b = appendLine(b, "app: ", d.App)
	}
	if d.Machine != "" {
		b = appendLine(b, "machine: ", d.Machine)
	}
	if d.Region != "" {
		b = appendLine(b, "region: ", d.Region)
	}
	if d.Prefer != "" {
		b = appendLine(b, "prefer: ", d.Prefer)
	}
	if d.Path != "" {
		b = appendLine(b, "path: ", d.Path)
	}
	if d.Cache != "" {
		b = appendLine(b, "cache: ", d.Cache)
	}
	if d.Status != 0 {
		b = appendLine(b, "status: ", strconv.Itoa(d.Status))
	}
	if d.Location != "" {
		b = appendLine(b, "location: ", d.Location)
	}
	if d.Body != "" {
		b = appendLine(b, "body: ", d.Body)
	}
	for _, header := range d.Set {
		b = append(b, "set-header."...)
		b = append(b, header.Name...)
		b = appendLine(b, ": ", header.Value)
	}
	decisionBuffer = b
	hostDecide(unsafe.Pointer(unsafe.SliceData(b)), uint32(len(b)))
	return 0
}

func appendLine(b []byte, key, value string) []byte {
	b = append(b, key...)
	b = append(b, value...)
	return append(b, '\n')
}
