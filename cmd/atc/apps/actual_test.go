package apps

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"atc/fs/mount/mounttest"
)

// actual is the server of a budgeting application, in Node.js: databases in
// rollback mode, one of which comes with the first synchronisation of a budget,
// and budgets as files.
func actual(t *testing.T) application {
	return application{
		app: fmt.Sprintf(`
command = [%q, "/app/node_modules/.bin/actual-server"]
binds = ["%s:/app"]
health = "/health"
[app.env]
ACTUAL_DATA_DIR = "/data"
ACTUAL_PORT = "3000"
ACTUAL_HOSTNAME = "127.0.0.1"
NODE_ENV = "production"
`, node(t), tool(t, "actual-server")),
		databases: []string{"account.sqlite", "group-*.sqlite"},
		visitor:   func(tenant string) visitor { return &actualVisitor{tenant: tenant} },
	}
}

// actualVisitor has one budget, which is uploaded at first, and synchronises a
// change to it each time.
type actualVisitor struct {
	tenant, group string
}

func (v *actualVisitor) file() string { return "budget-of-" + v.tenant }
func (v *actualVisitor) change(round int) string {
	return fmt.Sprintf("change %d of %s", round, v.tenant)
}
func (v *actualVisitor) content() string { return strings.Repeat("budget of "+v.tenant, 5000) }
func (v *actualVisitor) password() map[string]any {
	return map[string]any{"password": "of " + v.tenant}
}

// login returns the client of a session, the first time of one that sets the
// password.
func (v *actualVisitor) login(t *testing.T, c *client) *client {
	t.Helper()
	path := "/account/login"
	if v.group == "" {
		path = "/account/bootstrap"
	}
	var session struct{ Data struct{ Token string } }
	if status := c.sendJSON(t, path, v.password(), &session); status != http.StatusOK || session.Data.Token == "" {
		t.Fatalf("%s at %s: %d %+v", path, v.tenant, status, session)
	}
	return c.with("X-Actual-Token", session.Data.Token).with("X-Actual-File-Id", v.file())
}

func (v *actualVisitor) write(t *testing.T, c *client, round int) {
	c = v.login(t, c)
	if round == 0 {
		var uploaded struct{ GroupID string }
		readJSON(t, c.with("X-Actual-Name", v.tenant).with("X-Actual-Format", "2").
			send(t, "POST", "/sync/upload-user-file", "application/encrypted-file", v.content()), &uploaded)
		if v.group = uploaded.GroupID; v.group == "" {
			t.Fatalf("%s has no group", v.tenant)
		}
	}
	at := fmt.Sprintf("2026-01-01T00:00:%02d.000Z-0000-aaaaaaaaaaaaaaaa", round)
	v.sync(t, c, field(1, field(1, at)+field(3, v.change(round))))
}

// sync synchronises a budget, with a message or none, and returns all messages
// that there were before.
func (v *actualVisitor) sync(t *testing.T, c *client, message string) string {
	t.Helper()
	a := c.send(t, "POST", "/sync/sync", "application/actual-sync",
		message+field(2, v.file())+field(3, v.group)+field(6, "1970-01-01T00:00:00.000Z-0000-0000000000000000"))
	if a.status != http.StatusOK {
		t.Fatalf("synchronising at %s: %+v", v.tenant, a)
	}
	return a.body
}

// field is a text in a protocol buffer, which sync speaks.
func field(number byte, text string) string {
	if len(text) > 127 {
		panic("longer than a varint of one byte says")
	}
	return string([]byte{number<<3 | 2, byte(len(text))}) + text
}

func (v *actualVisitor) read(t *testing.T, c *client, rounds int) {
	for _, tenant := range tenants {
		other := &actualVisitor{tenant: tenant}
		if status := c.sendJSON(t, "/account/login", other.password(), &struct{}{}); (status == http.StatusOK) != (tenant == v.tenant) {
			t.Errorf("with the password of %s at %s: %d", tenant, v.tenant, status)
		}
	}
	c = v.login(t, c)
	var list struct{ Data []struct{ Name string } }
	readJSON(t, c.get(t, "/sync/list-user-files"), &list)
	if len(list.Data) != 1 || list.Data[0].Name != v.tenant {
		t.Errorf("%s has the budgets %+v", v.tenant, list)
	}
	if a := c.get(t, "/sync/download-user-file"); a.status != http.StatusOK || a.body != v.content() {
		t.Errorf("the budget of %s: %d, %d bytes", v.tenant, a.status, len(a.body))
	}
	changes := v.sync(t, c, "")
	for round := range rounds {
		if !strings.Contains(changes, v.change(round)) {
			t.Errorf("%s has lost change %d: %q", v.tenant, round, changes)
		}
	}
	if n := strings.Count(changes, "change"); n != rounds {
		t.Errorf("%s has %d changes, want %d: %q", v.tenant, n, rounds, changes)
	}
}

func (v *actualVisitor) kept(t *testing.T, databases map[string]string, rounds int) {
	if got := mounttest.SQL(t, databases["account.sqlite"], "select name from files"); got != v.tenant {
		t.Errorf("the budgets of %s are %q", v.tenant, got)
	}
	if got := mounttest.SQL(t, databases["group-*.sqlite"], "select count(*) from messages_binary"); got != fmt.Sprint(rounds) {
		t.Errorf("%s has %s changes, want %d", v.tenant, got, rounds)
	}
}
