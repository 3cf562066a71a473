package apps

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"testing"

	"atc/fs/mount/mounttest"
)

// pocketbase is a backend in Go: two databases in WAL mode, uploaded and
// generated files.
func pocketbase(t *testing.T) application {
	return application{
		app: fmt.Sprintf(`
command = [%q, "serve", "--http=127.0.0.1:3000", "--dir=/data", "--dev=false"]
health = "/api/health"`, tool(t, "base")),
		databases: []string{"data.db", "auxiliary.db"},
		visitor:   func(tenant string) visitor { return pocketbaseVisitor(tenant) },
	}
}

// pocketbaseVisitor signs up as a new user each time, with an avatar.
type pocketbaseVisitor string

func (v pocketbaseVisitor) email(round int) string { return fmt.Sprintf("user%d@%s.example", round, v) }

func (v pocketbaseVisitor) write(t *testing.T, c *client, round int) {
	const password = "correct horse"
	a := c.upload(t, "/api/collections/users/records", map[string]string{
		"email": v.email(round), "password": password, "passwordConfirm": password, "name": "of " + string(v),
	}, "avatar", picture(t, string(v), round))
	if a.status != http.StatusOK {
		t.Fatalf("signing up at %s: %+v", v, a)
	}
}

func (v pocketbaseVisitor) read(t *testing.T, c *client, rounds int) {
	for round := range rounds {
		for _, tenant := range tenants {
			var session struct {
				Token  string
				Record struct{ ID, Name, Avatar string }
			}
			status := c.sendJSON(t, "/api/collections/users/auth-with-password",
				map[string]string{"identity": pocketbaseVisitor(tenant).email(round), "password": "correct horse"}, &session)
			if tenant != string(v) {
				if status != http.StatusBadRequest {
					t.Errorf("a user of %s logs in at %s: %d", tenant, v, status)
				}
				continue
			}
			if status != http.StatusOK || session.Record.Name != "of "+tenant {
				t.Fatalf("user %d logs in at %s: %d %+v", round, v, status, session)
			}
			avatar := "/api/files/users/" + session.Record.ID + "/" + session.Record.Avatar
			if a := c.get(t, avatar); a.status != http.StatusOK || a.body != string(picture(t, tenant, round)) {
				t.Errorf("the avatar %d of %s: %d, %d bytes", round, v, a.status, len(a.body))
			}
			// Made on demand, and kept as a file.
			a := c.get(t, avatar+"?thumb=100x100")
			if thumb, err := png.DecodeConfig(bytes.NewReader([]byte(a.body))); err != nil || thumb.Width != 100 {
				t.Errorf("the thumbnail %d of %s: %d, %+v, %v", round, v, a.status, thumb, err)
			}
			var list struct{ Items []struct{ ID string } }
			readJSON(t, c.with("Authorization", session.Token).get(t, "/api/collections/users/records"), &list)
			if len(list.Items) != 1 || list.Items[0].ID != session.Record.ID {
				t.Errorf("user %d of %s sees %+v", round, v, list)
			}
		}
	}
}

func (v pocketbaseVisitor) kept(t *testing.T, databases map[string]string, rounds int) {
	want := ""
	for round := range rounds {
		want += v.email(round) + "\n"
	}
	if got := mounttest.SQL(t, databases["data.db"], "select email from users order by email"); got+"\n" != want {
		t.Errorf("the users of %s are %q, want %q", v, got, want)
	}
	if got := mounttest.SQL(t, databases["auxiliary.db"], "select count(*)>0 from _logs"); got != "1" {
		t.Errorf("the log of %s is empty", v)
	}
}

// picture is a PNG unlike that of any other tenant and round.
func picture(t *testing.T, tenant string, round int) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, 200, 200))
	for i := range img.Bounds().Dx() {
		img.Set(i, i, color.RGBA{tenant[0], byte(round), byte(i), 255})
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
