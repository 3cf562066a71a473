package errors

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"syscall"
	"testing"
)

func TestWrappingKeepsTheKind(t *testing.T) {
	inner := E("put", "tenants/acme/tenant.json", Condition, nil)
	outer := E("acquire", "acme", Other, fmt.Errorf("writing the record: %w", inner))
	if !Is(Condition, outer) {
		t.Fatalf("kind of %v is %v", outer, KindOf(outer))
	}
	want := "acquire acme: writing the record: put tenants/acme/tenant.json: changed meanwhile"
	if outer.Error() != want {
		t.Fatalf("got  %s\nwant %s", outer, want)
	}
}

func TestTables(t *testing.T) {
	for _, c := range []struct {
		err    error
		errno  syscall.Errno
		status int
	}{
		{nil, 0, http.StatusOK},
		{fs.ErrNotExist, syscall.ENOENT, http.StatusNotFound},
		{fmt.Errorf("write: %w", syscall.ENOSPC), syscall.ENOSPC, http.StatusInsufficientStorage},
		{syscall.EXDEV, syscall.EXDEV, http.StatusInternalServerError},
		{context.Canceled, syscall.EINTR, 499},
		{E("read", "page 7", Corrupt, nil), syscall.EIO, http.StatusInternalServerError},
		{E("open", "acme", Busy, nil), syscall.EBUSY, http.StatusMisdirectedRequest},
	} {
		if got := Errno(c.err); got != c.errno {
			t.Errorf("Errno(%v) = %v, want %v", c.err, got, c.errno)
		}
		if got := HTTPStatus(c.err); got != c.status {
			t.Errorf("HTTPStatus(%v) = %v, want %v", c.err, got, c.status)
		}
	}
	for k := Other; k <= Canceled; k++ {
		if k.String() == "" || kinds[k].errno == 0 || kinds[k].status == 0 {
			t.Errorf("kind %d has a gap in its table", k)
		}
	}
}
