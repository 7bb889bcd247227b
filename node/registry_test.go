package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/store"
)

// fakeRegistry serves an OCI layout as the repository "os" with the tag "v2".
type fakeRegistry struct {
	dir    string
	bytes  atomic.Int64
	mu     sync.Mutex
	ranges []string
	// wall is an offset in a blob behind which no byte comes through.
	wall atomic.Int64
	// refused is called when somebody who has everything before the wall asks for more.
	refused    func()
	user, pass string
}

func (f *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.user != "" {
		if u, p, ok := r.BasicAuth(); !ok || u != f.user || p != f.pass {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
	}
	name := strings.TrimPrefix(r.URL.Path, "/v2/os/")
	digest := ""
	switch {
	case r.URL.Path == "/v2/":
		return
	case name == "manifests/v2":
		var index ocispec.Index
		b, _ := os.ReadFile(filepath.Join(f.dir, "index.json"))
		json.Unmarshal(b, &index)
		digest = index.Manifests[0].Digest.String()
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	case strings.HasPrefix(name, "manifests/"):
		digest = strings.TrimPrefix(name, "manifests/")
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	case strings.HasPrefix(name, "blobs/"):
		digest = strings.TrimPrefix(name, "blobs/")
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	b, err := os.ReadFile(filepath.Join(f.dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:")))
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Docker-Content-Digest", digest)
	f.mu.Lock()
	if h := r.Header.Get("Range"); h != "" {
		f.ranges = append(f.ranges, h)
	}
	f.mu.Unlock()
	out := &counted{ResponseWriter: w, n: &f.bytes}
	if wall := f.wall.Load(); wall > 0 {
		var from int64
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		if from >= wall {
			f.refused()
		}
		out.limited, out.left = true, max(wall-from, 0)
	}
	http.ServeContent(out, r, "", time.Time{}, bytes.NewReader(b))
}

type counted struct {
	http.ResponseWriter
	n       *atomic.Int64
	limited bool
	left    int64
}

func (c *counted) Write(p []byte) (int, error) {
	if c.limited && int64(len(p)) > c.left {
		n, _ := c.ResponseWriter.Write(p[:c.left])
		c.n.Add(int64(n))
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler) // the cable is pulled
	}
	n, err := c.ResponseWriter.Write(p)
	c.left -= int64(n)
	c.n.Add(int64(n))
	return n, err
}

func noise(n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return string(b)
}

func TestRegistryCutInTheMiddleOfALayerIsResumed(t *testing.T) {
	a, _, _ := threeImages(t)
	const size = 6 << 20
	big := newImage(t, runtime.GOARCH, a.layers[0], tarOf(t, map[string]string{"big": noise(size)}), a.layers[2])
	reg := &fakeRegistry{dir: big.dir}
	srv := httptest.NewServer(reg)
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	disk, cache := t.TempDir(), t.TempDir()
	m := install(t, disk, "uefi", cache, a)

	// Interrupted for good: it is tried again until the command is stopped, and what boots is as it was.
	reg.wall.Store(size / 2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reg.refused = cancel
	if _, err := m.Upgrade(ctx,
		UpgradeOptions{Source: source.Ref{Kind: source.Registry, Name: addr + "/os:v2"}}); err == nil {
		t.Fatal("succeeded although no layer came whole")
	}
	if order, err := bootable(disk, "uefi"); err != nil || order[0].ID != a.id {
		t.Errorf("boots %v, %v", order, err)
	}
	// The next run goes on where it was cut, and fetches nothing that the node has.
	reg.wall.Store(0)
	reg.bytes.Store(0)
	reg.ranges = nil
	var steps []string
	r, err := m.Upgrade(
		t.Context(),
		UpgradeOptions{
			Source:   source.Ref{Kind: source.Registry, Name: addr + "/os:v2"},
			Progress: func(e Event) { steps = append(steps, e.Step+" "+e.Object) },
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	if r.Release != big.id {
		t.Errorf("release %s, want %s", r.Release, big.id)
	}
	if n := reg.bytes.Load(); n > size*6/10 {
		t.Errorf("fetched %d bytes of a layer of which half was there", n)
	}
	if len(reg.ranges) == 0 || reg.ranges[0] == "bytes=0-" {
		t.Errorf("ranges %q", reg.ranges)
	}
	for _, s := range steps {
		if strings.HasPrefix(s, "layer ") && !strings.Contains(s, "2 of 3") {
			t.Errorf("converted a layer that the node has: %s", s)
		}
	}
}

func TestHostsTomlAndCredentials(t *testing.T) {
	a, b, _ := threeImages(t)
	reg := &fakeRegistry{dir: b.dir, user: "u", pass: "secret"}
	srv := httptest.NewTLSServer(reg)
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "https://")
	m := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	conf := t.TempDir()
	// A mirror for a registry that does not exist, with a CA of its own.
	host := filepath.Join(conf, "registry.example")
	if err := os.MkdirAll(host, 0o755); err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(conf, "ca.crt")
	if err := os.WriteFile(ca, pemOf(srv), 0o644); err != nil {
		t.Fatal(err)
	}
	toml := fmt.Sprintf(
		"server = \"https://registry.example\"\n[host.\"https://%s\"]\n  capabilities = [\"pull\", "+
			"\"resolve\"]\n  ca = %q\n",
		addr,
		ca,
	)
	if err := os.WriteFile(filepath.Join(host, "hosts.toml"), []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
	auth := filepath.Join(conf, "auth.json")
	o := UpgradeOptions{
		Source:   source.Ref{Kind: source.Registry, Name: "registry.example/os:v2"},
		Registry: registry.Options{HostsDir: conf, AuthFiles: []string{auth}},
	}
	if _, err := m.Upgrade(t.Context(), o); err == nil {
		t.Error("succeeded without credentials")
	}
	secret := base64.StdEncoding.EncodeToString([]byte("u:secret"))
	if err := os.WriteFile(auth, []byte(`{"auths":{"`+addr+`":{"auth":"`+secret+`"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := m.Upgrade(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Release != b.id {
		t.Errorf("release %s, want %s", r.Release, b.id)
	}
}

// To a clock in the past, every certificate is one of the future. Everything but TLS works with it.
func TestClockInThePast(t *testing.T) {
	a, b, _ := threeImages(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().
			AddDate(56, 0, 0),
		NotAfter: time.Now().AddDate(57, 0, 0), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(crand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(&fakeRegistry{dir: b.dir})
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "https://")
	conf := t.TempDir()
	host := filepath.Join(conf, addr)
	if err := os.MkdirAll(host, 0o755); err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(host, "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	toml := fmt.Sprintf("server = %q\nca = %q\n", srv.URL, ca)
	if err := os.WriteFile(filepath.Join(host, "hosts.toml"), []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
	disk := t.TempDir()
	m := install(t, disk, "uefi", t.TempDir(), a)
	before := time.Now()
	_, err = m.Upgrade(
		t.Context(),
		UpgradeOptions{
			Source:   source.Ref{Kind: source.Registry, Name: addr + "/os:v2"},
			Registry: registry.Options{HostsDir: conf},
		},
	)
	says := func(at time.Time) bool {
		return strings.Contains(err.Error(), "the clock of this machine says "+at.Format(time.DateOnly))
	}
	if err == nil || !says(before) && !says(time.Now()) { // midnight may come in between
		t.Errorf("got %v", err)
	}
	if order, err := bootable(disk, "uefi"); err != nil || order[0].ID != a.id {
		t.Errorf("boots %v, %v", order, err)
	}
}

func pemOf(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

func TestEachSourceGivesTheSameRelease(t *testing.T) {
	a, b, _ := threeImages(t)
	archive := filepath.Join(t.TempDir(), "b.tar")
	tool(t, "tar", "-C", b.dir, "-cf", archive, ".")
	saved := dockerSave(t, b)
	for _, src := range []string{
		"oci-layout:" + b.dir, "oci-archive:" + archive, "docker-archive:" + saved, "docker-archive:" + saved + ":v2",
	} {
		m := install(t, t.TempDir(), "uefi", t.TempDir(), a)
		s, err := source.Parse(src)
		if err != nil {
			t.Fatal(err)
		}
		r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: s})
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		if r.Release != b.id {
			t.Errorf("%s: release %s, want %s", src, r.Release, b.id)
		}
		if err := m.State.VerifyRelease(b.id); err != nil {
			t.Errorf("%s: %v", src, err)
		}
	}
	// A folder is an image of its own.
	root := t.TempDir()
	tool(t, "tar", "-C", root, "-xf", writeTemp(t, b.layers[2]))
	m := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	for range 2 {
		r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: source.Ref{Kind: source.Directory, Name: root}})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.State.VerifyRelease(r.Release); err != nil {
			t.Error(err)
		}
	}
}

func writeTemp(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// dockerSave makes what docker save wrote before it wrote OCI layouts.
func dockerSave(t testing.TB, img testImage) string {
	t.Helper()
	dir := t.TempDir()
	var index ocispec.Index
	var manifest ocispec.Manifest
	for name, into := range map[string]any{"index.json": &index} {
		b, err := os.ReadFile(filepath.Join(img.dir, name))
		if err != nil || json.Unmarshal(b, into) != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(img.dir, "blobs", "sha256", index.Manifests[0].Digest.Encoded()))
	if err != nil || json.Unmarshal(b, &manifest) != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(filepath.Join(img.dir, "blobs", "sha256", manifest.Config.Digest.Encoded()))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{manifest.Config.Digest.Encoded() + ".json": config}
	var names []string
	for i, l := range img.layers {
		name := fmt.Sprintf("%d/layer.tar", i)
		files[name] = l
		names = append(names, name)
	}
	files["manifest.json"], _ = json.Marshal(
		[]map[string]any{
			{"Config": manifest.Config.Digest.Encoded() + ".json", "RepoTags": []string{"os:v2"}, "Layers": names},
		},
	)
	for name, b := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	archive := filepath.Join(t.TempDir(), "saved.tar")
	tool(t, "tar", "-C", dir, "-cf", archive, ".")
	return archive
}

// A second run waits, says for whom, and gives up by name.
func TestTwoRunsDoNotMeet(t *testing.T) {
	root := t.TempDir()
	unlock, err := Lock(t.Context(), root, LockOptions{Who: "upgrade"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Lock(t.Context(), root, LockOptions{Who: "reset"})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("second: %v", err)
	}
	waited := ""
	unlock2, err := Lock(t.Context(), root, LockOptions{Who: "bless", Wait: time.Hour, Waiting: func(who string) {
		waited = who
		unlock()
	}})
	if err != nil || waited != "upgrade" {
		t.Fatalf("waited for %q: %v", waited, err)
	}
	_, err = Lock(t.Context(), root, LockOptions{})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "bless") {
		t.Errorf("third: %v", err)
	}
	unlock2()
}

func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// An upgrade that failed for another reason than the network gives the room back that it took for what it fetched; one
// that there is no room for on PERSISTENT fetches nothing.
func TestFailedUpgradeGivesRoomBack(t *testing.T) {
	a, _, _ := threeImages(t)
	big := newImage(t, runtime.GOARCH, a.layers[0], tarOf(t, map[string]string{"big": noise(2 << 20)}), a.layers[2])
	reg := &fakeRegistry{dir: big.dir}
	srv := httptest.NewServer(reg)
	defer srv.Close()
	cache := t.TempDir()
	m := install(t, t.TempDir(), "uefi", cache, a)
	o := UpgradeOptions{
		Source: source.Ref{Kind: source.Registry, Name: strings.TrimPrefix(srv.URL, "http://") + "/os:v2"},
	}
	good := m.bootFiles
	m.bootFiles = func(*store.Store, layout.Release, Progress) (loader.BootFiles, bootFacts, error) {
		return loader.BootFiles{}, bootFacts{}, errors.New("it cannot boot")
	}
	if _, err := m.Upgrade(t.Context(), o); err == nil || !strings.Contains(err.Error(), "cannot boot") {
		t.Fatal(err)
	}
	if n := size(t, filepath.Join(cache, cacheDir, "content")); n > 64<<10 {
		t.Errorf("%d bytes are left of what was fetched", n)
	}
	m.bootFiles = good
	reg.bytes.Store(0)
	m.freeBytes = func(dir string) (int64, error) {
		if strings.HasPrefix(dir, cache) {
			return 9 << 20, nil
		}
		return 1 << 40, nil
	}
	var refused *RefusedError
	if _, err := m.Upgrade(t.Context(), o); !errors.As(err, &refused) ||
		!strings.Contains(err.Error(), "PERSISTENT has 9 MiB") {
		t.Errorf("%v", err)
	}
	if n := reg.bytes.Load(); n > 64<<10 {
		t.Errorf("%d bytes were fetched", n)
	}
	m.freeBytes = store.Free
	if r, err := m.Upgrade(t.Context(), o); err != nil || r.Release != big.id {
		t.Errorf("with room again: %+v, %v", r, err)
	}
}

// size is what the files in a directory have.
func size(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		n += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
