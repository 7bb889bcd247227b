package registry

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registries on this machine's own addresses are reached without TLS by default. Those of the tests have other
// names, which a proxy leads to their servers.
var servers sync.Map // "host:port" to the address of its server

func TestMain(m *testing.M) {
	p := httptest.NewServer(http.HandlerFunc(proxy))
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY"} {
		os.Setenv(name, p.URL)
	}
	os.Unsetenv("NO_PROXY")
	code := m.Run()
	p.Close()
	os.Exit(code)
}

func proxy(w http.ResponseWriter, r *http.Request) {
	to, ok := servers.Load(r.Host)
	if !ok {
		http.Error(w, "no such host", http.StatusBadGateway)
		return
	}
	if r.Method != http.MethodConnect {
		r.URL.Host, r.RequestURI = to.(string), ""
		res, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer res.Body.Close()
		for name, values := range res.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(res.StatusCode)
		_, _ = io.Copy(w, res.Body)
		return
	}
	up, err := net.Dial("tcp", to.(string))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer up.Close()
	down, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer down.Close()
	_, _ = io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
	go func() { _, _ = io.Copy(up, buffered) }()
	_, _ = io.Copy(down, up)
}

// access is what a registry wants to know.
type access struct{ user, secret, token string }

const manifest = `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `"}`

// serve is a registry of one image, "os:v1", at a host and port.
func serve(t *testing.T, host string, withTLS bool, a access) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	var s *httptest.Server
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("refresh_token") != a.token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"access_token":"granted"}`)
	})
	mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
		user, secret, _ := r.BasicAuth()
		switch {
		case a.token != "" && r.Header.Get("Authorization") != "Bearer granted":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, host))
			w.WriteHeader(http.StatusUnauthorized)
			return
		case a.user != "" && (user != a.user || secret != a.secret):
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		case !strings.Contains(r.URL.Path, "/os/manifests/"):
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", string(digest.FromString(manifest)))
		w.Header().Set("Content-Length", fmt.Sprint(len(manifest)))
		_, _ = io.WriteString(w, manifest)
	})
	if withTLS {
		s = httptest.NewUnstartedServer(mux)
		s.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that the test wants to fail
		s.StartTLS()
	} else {
		s = httptest.NewServer(mux)
	}
	servers.Store(host, s.Listener.Addr().String())
	t.Cleanup(func() { servers.Delete(host); s.Close() })
	return s
}

// find resolves an image, and reads its manifest.
func find(t *testing.T, ref string, o Options) error {
	t.Helper()
	if o.HostsDir == "" {
		o.HostsDir = t.TempDir()
	}
	r, desc, err := Find(t.Context(), ref, o)
	if err != nil {
		return err
	}
	blob, err := r.Open(t.Context(), desc)
	if err != nil {
		return err
	}
	defer blob.Close()
	b, err := io.ReadAll(blob)
	if err == nil && string(b) != manifest {
		t.Errorf("the manifest is %q", b)
	}
	return err
}

// A registry without TLS, or whose certificate nobody signed, is refused unless somebody allows it: for all with a
// flag, or for one in its hosts.toml.
func TestInsecureRegistries(t *testing.T) {
	serve(t, "plain.test:5000", false, access{})
	serve(t, "own.test:5000", true, access{})
	for _, host := range []string{"plain.test:5000", "own.test:5000"} {
		hosts := t.TempDir()
		scheme := map[string]string{"plain.test:5000": "http", "own.test:5000": "https"}[host]
		toml := fmt.Sprintf("[host.\"%s://%s\"]\n  skip_verify = true\n", scheme, host)
		if err := os.MkdirAll(filepath.Join(hosts, host), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(hosts, host, "hosts.toml"), []byte(toml), 0o600); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			Options
			ok bool
		}{
			"default":    {Options{AuthFiles: []string{}}, false},
			"insecure":   {Options{AuthFiles: []string{}, Insecure: true}, true},
			"hosts.toml": {Options{AuthFiles: []string{}, HostsDir: hosts}, true},
		} {
			err := find(t, host+"/os:v1", c.Options)
			want := "registry " + host + " cannot be reached"
			if (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s, %s: %v", host, name, err)
			}
		}
	}
}

// helper puts a program docker-credential-NAME into PATH, which answers for each server what the map says; any other
// is one that it does not know. It notes what it is asked.
func helper(t *testing.T, name string, answers map[string]string) (asked string) {
	t.Helper()
	dir := t.TempDir()
	asked = filepath.Join(dir, "asked")
	script := "#!/bin/sh\nread server\necho \"$1 $server\" >> " + asked + "\ncase $server in\n"
	for server, answer := range answers {
		script += server + ") " + answer + " ;;\n"
	}
	script += "*) echo 'credentials not found in native keychain'; exit 1 ;;\nesac\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return asked
}

func answer(user, secret string) string {
	return fmt.Sprintf(`echo '{"ServerURL":"x","Username":"%s","Secret":"%s"}'`, user, secret)
}

// Credentials come from the file, or from the program that it names: for one registry or for all.
func TestCredentials(t *testing.T) {
	asked := helper(t, "test", map[string]string{
		"basic.test:5000": answer("me", "secret"), "token.test:5000": answer("<token>", "refresh"),
		"wrong.test:5000": answer("me", "old"), "broken.test:5000": "echo no keyring >&2; echo no keyring; exit 3",
	})
	basic := access{user: "me", secret: "secret"}
	for _, host := range []string{"basic.test:5000", "wrong.test:5000", "broken.test:5000", "nobody.test:5000"} {
		serve(t, host, false, basic)
	}
	serve(t, "token.test:5000", false, access{token: "refresh"})
	for name, c := range map[string]struct{ host, config, want string }{
		"for all":     {"basic.test:5000", `{"credsStore":"test"}`, ""},
		"for one":     {"basic.test:5000", `{"credHelpers":{"basic.test:5000":"test"}}`, ""},
		"token":       {"token.test:5000", `{"credsStore":"test"}`, ""},
		"in the file": {"basic.test:5000", `{"auths":{"basic.test:5000":{"auth":"bWU6c2VjcmV0"}}}`, ""},
		"for another": {"basic.test:5000", `{"credHelpers":{"x.test":"test"}}`,
			"log in with `docker login basic.test:5000`"},
		"wrong":        {"wrong.test:5000", `{"credsStore":"test"}`, "log in with `docker login wrong.test:5000`"},
		"unknown":      {"nobody.test:5000", `{"credsStore":"test"}`, "log in with `docker login nobody.test:5000`"},
		"broken":       {"broken.test:5000", `{"credsStore":"test"}`, "no keyring"},
		"not there":    {"basic.test:5000", `{"credsStore":"missing"}`, "docker-credential-missing"},
		"no JSON":      {"basic.test:5000", `{`, "credentials in "},
		"no such file": {"basic.test:5000", "", "log in with"},
	} {
		file := filepath.Join(t.TempDir(), "config.json")
		if c.config != "" {
			if err := os.WriteFile(file, []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		err := find(t, c.host+"/os:v1", Options{AuthFiles: []string{file}, Insecure: true})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	b, err := os.ReadFile(asked)
	if err != nil || strings.Contains(string(b), "store") || !strings.Contains(string(b), "get basic.test:5000\n") {
		t.Errorf("the program was asked %q (%v)", b, err)
	}
}

// A registry that sends more than it said does not fill a disk, and an image has nothing fetched from where it likes.
func TestFetchIsBounded(t *testing.T) {
	serve(t, "endless.test:5000", false, access{})
	asked := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer elsewhere.Close()
	r, desc, err := Find(t.Context(), "endless.test:5000/os:v1", Options{
		HostsDir: t.TempDir(), AuthFiles: []string{}, Insecure: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	desc.URLs = []string{elsewhere.URL}
	for _, size := range []int64{desc.Size, desc.Size - 1} {
		desc.Size = size
		blob, err := r.Fetch(t.Context(), desc)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(blob)
		blob.Close()
		if whole := string(b) == manifest; (size == int64(len(manifest))) != whole || whole != (err == nil) {
			t.Errorf("%d bytes: %q, %v", size, b, err)
		}
	}
	if asked {
		t.Error("a manifest's URL was asked")
	}
}

func TestAuthFileIsBounded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 12<<30); err != nil {
		t.Fatal(err)
	}
	var too *os.PathError
	_, _, err := credentials([]string{file}, "x.test")
	if !errors.As(err, &too) || !strings.Contains(err.Error(), "1 MiB") {
		t.Errorf("%v", err)
	}
}
