package bucket

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"atc/fs/errors"
)

// Store URLs: what they mean together with the environment, what is refused,
// and that a refusal never repeats a secret.

func TestS3URLs(t *testing.T) {
	for _, c := range []struct {
		url  string
		env  map[string]string
		want string // as url() writes it
		path bool
	}{
		{"s3://tenants", nil, "s3://tenants?region=us-east-1", false},
		{"s3://tenants/", nil, "s3://tenants?region=us-east-1", false},
		{"s3://tenants/a/b/", nil, "s3://tenants/a/b?region=us-east-1", false},
		{"s3://tenants?region=eu-west-1", map[string]string{"AWS_REGION": "us-west-2"}, "s3://tenants?region=eu-west-1", false},
		{"s3://tenants", map[string]string{"AWS_REGION": "us-west-2"}, "s3://tenants?region=us-west-2", false},
		{"s3://tenants", map[string]string{"AWS_DEFAULT_REGION": "us-west-2"}, "s3://tenants?region=us-west-2", false},
		{"s3://", map[string]string{"BUCKET_NAME": "fly-bucket"}, "s3://fly-bucket?region=us-east-1", false},
		{"s3:///pre/fix", map[string]string{"BUCKET_NAME": "fly-bucket"}, "s3://fly-bucket/pre/fix?region=us-east-1", false},
		{"s3://mine", map[string]string{"BUCKET_NAME": "fly-bucket"}, "s3://mine?region=us-east-1", false},
		{"s3://tenants?endpoint=http://127.0.0.1:7070/", nil, "s3://tenants?endpoint=http://127.0.0.1:7070&region=us-east-1", true},
		{"s3://tenants?endpoint=https%3A%2F%2Fminio.example", nil, "s3://tenants?endpoint=https://minio.example&region=us-east-1", true},
		{"s3://tenants", map[string]string{"AWS_ENDPOINT_URL_S3": "https://fly.storage.tigris.dev"}, "s3://tenants?endpoint=https://fly.storage.tigris.dev&region=auto", false},
		{"s3://tenants", map[string]string{"AWS_ENDPOINT_URL": "https://t3.storage.dev"}, "s3://tenants?endpoint=https://t3.storage.dev&region=auto", false},
		{"s3://tenants", map[string]string{"AWS_ENDPOINT_URL": "https://a.example", "AWS_ENDPOINT_URL_S3": "https://b.example"}, "s3://tenants?endpoint=https://b.example&region=us-east-1", true},
		{"s3://tenants?endpoint=https://c.example", map[string]string{"AWS_ENDPOINT_URL_S3": "https://b.example"}, "s3://tenants?endpoint=https://c.example&region=us-east-1", true},
		{"s3://tenants?endpoint=https://s3.eu-west-1.amazonaws.com", nil, "s3://tenants?endpoint=https://s3.eu-west-1.amazonaws.com&region=us-east-1", false},
		{"s3://tenants?endpoint=https://eviltigris.dev", nil, "s3://tenants?endpoint=https://eviltigris.dev&region=us-east-1", true},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s3ConfigOf(u, u.Query(), func(name string) string { return c.env[name] })
		if err != nil || got.url() != c.want || got.pathStyle() != c.path {
			t.Errorf("%s %v: %s, path style %v, %v; want %s", c.url, c.env, got.url(), got.pathStyle(), err, c.want)
			continue
		}
		// What it writes means the same without the environment.
		u, err = url.Parse(got.url())
		if err != nil {
			t.Fatal(err)
		}
		if again, err := s3ConfigOf(u, u.Query(), func(string) string { return "" }); err != nil || again.url() != c.want {
			t.Errorf("%s read again: %s, %v", c.want, again.url(), err)
		}
	}
}

// clean is a process environment that says nothing about stores.
func clean(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
		"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "BUCKET_NAME",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_WEB_IDENTITY_TOKEN_FILE"} {
		t.Setenv(name, "")
	}
	home := t.TempDir()
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(home, "config"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(home, "credentials"))
}

func TestRefusedURLs(t *testing.T) {
	clean(t)
	for _, c := range []struct{ url, says string }{
		{"", "write file:///path"},
		{"/var/lib/atc", "write file:///path"},
		{"gs://bucket", `"gs" is unknown; write file:///path or s3://`},
		{"S3//bucket", "write file:///path"},
		{"file://relative/path", "file:///path"},
		{"file:relative", "file:///path"},
		{"file:///", "other than /"},
		{"file:///..", "other than /"},
		{"file:///a?b=c", `option "b" is unknown`},
		{"file:///a%00b", "file:///path"},
		{"file:///a#b", "#"},
		{"s3://", "BUCKET_NAME"},
		{"s3:bucket", "two slashes"},
		{"s3://B_D", "3 to 63 characters"},
		{"s3://ab", "3 to 63 characters"},
		{"s3://bucket:9000/x", "3 to 63 characters"},
		{"s3://bucket/a//b", "prefix"},
		{"s3://bucket/../b", "prefix"},
		{"s3://bucket?endpiont=https://x", `"endpiont" is unknown; there are endpoint and region`},
		{"s3://bucket?region=a&region=b", "once"},
		{"s3://bucket?region=", "not be empty"},
		{"s3://bucket?region=a/b", "us-east-1"},
		{"s3://bucket?endpoint=x.example", "https://host"},
		{"s3://bucket?endpoint=ftp://x.example", "https://host"},
		{"s3://bucket?endpoint=https://x.example/path", "https://host"},
		{"s3://bucket?endpoint=https://key:hunter2@x.example", "https://host"},
		{"s3://bucket?endpoint=https://key:hunter2/@x.example", "https://host"},
		{"s3://key:hunter2@bucket", "AWS_ACCESS_KEY_ID"},
		{"s3://key:hunter2/x@bucket", "s3://bucket/prefix"},
		{"s3://bucket?secret=hunter2", `"secret" is unknown`},
		{"s3://bucket/%zz-hunter2", "not a URL"},
		{"s3://bucket?region=%zz-hunter2", "options"},
	} {
		b, err := Open(t.Context(), c.url)
		if err == nil {
			t.Errorf("%s opened %s", c.url, b.URL())
			continue
		}
		if !errors.Is(errors.Invalid, err) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s\n got %v (%v)\nwant %q, and no password", c.url, err, errors.KindOf(err), c.says)
		}
	}
}

// Without credentials an operator is told which to set, and no metadata service
// is probed for a server that is not AWS.
func TestNoCredentials(t *testing.T) {
	clean(t)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("the metadata service was asked for %s", r.URL)
	}))
	defer service.Close()
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.URL)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	_, err := Open(t.Context(), "s3://tenants?endpoint=http://127.0.0.1:1")
	if !errors.Is(errors.Permission, err) || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
		t.Errorf("got %v (%v)", err, errors.KindOf(err))
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
	b, err := Open(t.Context(), "s3://tenants?endpoint=http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.URL(), "hunter2") || strings.Contains(b.URL(), "key") {
		t.Errorf("its URL is %s", b.URL())
	}
}
