package apps

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"atc/fs/mount/mounttest"
)

// guestbook is our example, with the [app] of its own atc.toml. Its packages are
// not where its users have them.
func guestbook(t *testing.T) application {
	source, err := filepath.Abs("../../../examples/guestbook")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(source, "atc.toml"))
	if err != nil {
		t.Fatal(err)
	}
	_, app, _ := strings.Cut(string(b), "[app]\n")
	for old, new := range map[string]string{
		`"node"`:   fmt.Sprintf("%q", node(t)),
		`".:/app"`: fmt.Sprintf("%q, %q", source+":/app", tool(t, "guestbook/node_modules")+":/node_modules"),
	} {
		if strings.Count(app, old) != 1 {
			t.Fatalf("atc.toml has not %s once below [app]:\n%s", old, b)
		}
		app = strings.Replace(app, old, new, 1)
	}
	return application{
		app:       app,
		databases: []string{"guestbook.sqlite3"},
		visitor:   func(tenant string) visitor { return &guestbookVisitor{tenant: tenant} },
	}
}

// guestbookVisitor writes an entry with a picture each time, and a comment to it.
type guestbookVisitor struct {
	tenant  string
	entries []string // their paths
}

func (v *guestbookVisitor) write(t *testing.T, c *client, round int) {
	a := c.upload(t, "/entries", map[string]string{"author": "Ann", "text": v.text(round)}, "picture", picture(t, v.tenant, round))
	if a.status != http.StatusSeeOther {
		t.Fatalf("signing at %s: %+v", v.tenant, a)
	}
	v.entries = append(v.entries, a.location)
	comment := url.Values{"author": {"Bob"}, "text": {"comment on " + v.text(round)}}
	if a := c.send(t, "POST", a.location+"/comments", "application/x-www-form-urlencoded", comment.Encode()); a.status != http.StatusSeeOther {
		t.Fatalf("commenting at %s: %+v", v.tenant, a)
	}
}

func (v *guestbookVisitor) text(round int) string {
	return fmt.Sprintf("entry %d of %s", round, v.tenant)
}

var pictureURL = regexp.MustCompile(`<img src="(/pictures/[^"]*)"`)

func (v *guestbookVisitor) read(t *testing.T, c *client, rounds int) {
	list := c.get(t, "/")
	if n := strings.Count(list.body, "<p>entry "); list.status != http.StatusOK || n != rounds {
		t.Errorf("%s shows %d entries, want %d: %+v", v.tenant, n, rounds, list)
	}
	for round := range rounds {
		if !strings.Contains(list.body, v.text(round)) {
			t.Errorf("%s has lost %q: %+v", v.tenant, v.text(round), list)
		}
		page := c.get(t, v.entries[round])
		found := pictureURL.FindStringSubmatch(page.body)
		if page.status != http.StatusOK || !strings.Contains(page.body, "comment on "+v.text(round)) || found == nil {
			t.Fatalf("%s of %s: %+v", v.entries[round], v.tenant, page)
		}
		if a := c.get(t, found[1]); a.status != http.StatusOK || a.body != string(picture(t, v.tenant, round)) {
			t.Errorf("picture %d of %s: %d, %d bytes", round, v.tenant, a.status, len(a.body))
		}
	}
}

func (v *guestbookVisitor) kept(t *testing.T, databases map[string]string, rounds int) {
	got := mounttest.SQL(t, databases["guestbook.sqlite3"], "select count(*), (select count(*) from comments) from entries")
	if want := fmt.Sprintf("%d|%d", rounds, rounds); got != want {
		t.Errorf("%s has %s entries and comments, want %s", v.tenant, got, want)
	}
}
