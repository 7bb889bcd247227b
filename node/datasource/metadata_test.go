package datasource

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// serve is a metadata service on the loopback address in place of a cloud's: it has the documents at their paths, asks
// for the headers that the cloud asks for, and knows no others.
func serve(t *testing.T, name string, documents map[string]string) Service {
	t.Helper()
	for _, s := range services {
		if s.Name != name {
			continue
		}
		const token = "the token"
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch text, ok := documents[r.URL.RequestURI()]; {
			case s.token.path != "" && r.URL.Path == s.token.path:
				if r.Method != http.MethodPut || r.Header.Get(s.token.ttl) == "" {
					w.WriteHeader(http.StatusBadRequest)
					return
				}
				w.Write([]byte(token))
			case s.token.path != "" && r.Header.Get(s.token.use) != token,
				s.header[0] != "" && r.Header.Get(s.header[0]) != s.header[1]:
				w.WriteHeader(http.StatusUnauthorized)
			case strings.HasPrefix(text, "http"):
				http.Redirect(w, r, text, http.StatusFound)
			case ok:
				w.Write([]byte(text))
			default:
				w.WriteHeader(http.StatusNotFound)
			}
		}))
		t.Cleanup(server.Close)
		at := strings.Index(strings.TrimPrefix(s.base, "http://"), "/")
		path := ""
		if at >= 0 {
			path = strings.TrimPrefix(s.base, "http://")[at:]
		}
		s.base = server.URL + path
		return s
	}
	t.Fatalf("no service %s", name)
	return Service{}
}

func TestServices(t *testing.T) {
	const user = "#cloud-config\nruncmd: [x]\n"
	const meta = "hostname: n1\nssh_authorized_keys:\n    - ssh-a\n    - ssh-b\n"
	packed := base64.StdEncoding.EncodeToString([]byte(user))
	for name, tc := range map[string]struct {
		documents map[string]string
		meta      string
	}{
		"Amazon EC2": {map[string]string{
			"/latest/user-data": user, "/latest/meta-data/local-hostname": "n1",
			"/latest/meta-data/public-keys/0/openssh-key": "ssh-a\nssh-b\n",
		}, meta},
		"OpenStack": {map[string]string{
			"/openstack/latest/user_data":      user,
			"/openstack/latest/meta_data.json": `{"hostname": "n1", "public_keys": {"1": "ssh-a", "2": "ssh-b"}}`,
		}, meta},
		"Google Compute Engine": {map[string]string{
			"/computeMetadata/v1/instance/attributes/user-data": user, "/computeMetadata/v1/instance/hostname": "n1",
		}, "hostname: n1\n"},
		"Azure": {map[string]string{
			"/metadata/instance/compute/userData?api-version=2021-01-01&format=text": packed,
			"/metadata/instance/compute/name?api-version=2021-01-01&format=text":     "n1",
		}, "hostname: n1\n"},
		"DigitalOcean": {map[string]string{
			"/metadata/v1/user-data": user, "/metadata/v1/hostname": "n1", "/metadata/v1/public-keys": "ssh-a\nssh-b",
		}, meta},
		"Hetzner Cloud": {map[string]string{
			"/hetzner/v1/userdata": user, "/hetzner/v1/metadata/hostname": "n1",
			"/hetzner/v1/metadata/public-keys": `["ssh-a", "ssh-b"]`,
		}, meta},
		"Vultr": {map[string]string{
			"/latest/user-data": user, "/latest/meta-data/hostname": "n1",
			"/latest/meta-data/public-keys": "ssh-a\nssh-b",
		}, meta},
		"Exoscale": {map[string]string{
			"/latest/user-data": user, "/latest/meta-data/local-hostname": "n1",
			"/latest/meta-data/public-keys": "ssh-a\nssh-b",
		}, meta},
		"UpCloud": {map[string]string{
			"/metadata/v1/user_data": user, "/metadata/v1/hostname": "n1", "/metadata/v1/public_keys": "ssh-a\nssh-b",
		}, meta},
		"Alibaba Cloud": {map[string]string{
			"/latest/user-data": user, "/latest/meta-data/hostname": "n1",
			"/latest/meta-data/public-keys/0/openssh-key": "ssh-a\nssh-b",
		}, meta},
	} {
		found, err := serve(t, name, tc.documents).Fetch(t.Context())
		if err != nil || len(found) != 2 || string(found[0].Data) != tc.meta || string(found[1].Data) != user {
			t.Errorf("%s: %q, %v", name, found, err)
		}
		if found, err := serve(t, name, nil).Fetch(t.Context()); err != nil || len(found) != 0 {
			t.Errorf("%s without data: %q, %v", name, found, err)
		}
	}
	if have := len(services); have != 10 {
		t.Errorf("%d services, 10 are tested", have)
	}
}

// A service that sends elsewhere, or says what nobody can use, is not followed.
func TestServiceThatMisbehaves(t *testing.T) {
	elsewhere := serve(t, "DigitalOcean", map[string]string{"/metadata/v1/user-data": "http://127.0.0.1:1/"})
	if found, err := elsewhere.Fetch(t.Context()); err == nil {
		t.Errorf("redirected: %q", found)
	}
	script := serve(
		t,
		"DigitalOcean",
		map[string]string{"/metadata/v1/user-data": "MIME-Version: 1.0\nContent-Type: text/x-shellscript\n\n#!"},
	)
	if found, err := script.Fetch(t.Context()); err != nil || len(found) != 1 || found[0].Err == nil {
		t.Errorf("a script: %q, %v", found, err)
	}
}

func TestDetect(t *testing.T) {
	for vendor, want := range map[string]string{
		"Amazon EC2": "Amazon EC2", "Hetzner": "Hetzner Cloud", "QEMU": "", "": "",
	} {
		root := t.TempDir()
		dir := filepath.Join(root, "sys/class/dmi/id")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "sys_vendor"), []byte(vendor+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if s, ok := Detect(root); s.Name != want || ok != (want != "") {
			t.Errorf("%s is %q, %v", vendor, s.Name, ok)
		}
	}
}
