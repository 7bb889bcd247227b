package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	testregistry "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kairos-buildkit/kairos/image/policy/policytest"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
)

// mirror is a registry that counts uploads, and whose blobs can be damaged on their way out.
type mirror struct {
	http.Handler
	uploads atomic.Int64
	damage  atomic.Pointer[string] // digest
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut || r.Method == http.MethodPost || r.Method == http.MethodPatch {
		m.uploads.Add(1)
	}
	if d := m.damage.Load(); d != nil && r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, *d) {
		answer := httptest.NewRecorder()
		m.Handler.ServeHTTP(answer, r)
		w.Header().Set("Content-Length", fmt.Sprint(answer.Body.Len()))
		_, _ = w.Write(bytes.Repeat([]byte("x"), answer.Body.Len()))
		return
	}
	m.Handler.ServeHTTP(w, r)
}

func newMirror(t *testing.T, referrers bool) (*mirror, string) {
	t.Helper()
	m := &mirror{Handler: testregistry.New(
		testregistry.Logger(log.New(io.Discard, "", 0)), testregistry.WithReferrersSupport(referrers),
	)}
	srv := httptest.NewServer(m)
	t.Cleanup(srv.Close)
	return m, strings.TrimPrefix(srv.URL, "http://")
}

// byDigest names an image in a registry by its digest.
func byDigest(t *testing.T, ref string) name.Digest {
	t.Helper()
	to, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := remote.Head(to)
	if err != nil {
		t.Fatal(err)
	}
	return to.Context().Digest(desc.Digest.String())
}

// signs signs an image as cosign, sigstore and notation do, and returns the file of a policy that asks for the first
// two.
func signs(t *testing.T, ref string) string {
	t.Helper()
	digest := byDigest(t, ref)
	repository := digest.Context().Name()
	key, second := policytest.NewKey(t), policytest.NewKey(t)
	policytest.Sign(t, digest, policytest.Claim(t, digest, ""), key)
	policytest.Attach(t, digest, second.Bundle(t,
		policytest.Statement(t, "https://sigstore.dev/cosign/sign/v1", repository, digest)))
	policytest.NewSigner(t, "release").Notate(t, digest, digest, "application/jose+json")
	var all []string
	for _, k := range []policytest.Key{key, second} {
		all = append(all, fmt.Sprintf(`{"type":"sigstoreSigned","keyData":%q,"signedIdentity":{"type":`+
			`"exactRepository","dockerRepository":%q}}`, base64.StdEncoding.EncodeToString(k.Public), repository))
	}
	file := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(file, []byte(`{"default":[`+strings.Join(all, ",")+`]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// An image, its release and its signatures are copied through every kind of place, with the same digests, and what is
// there is not sent again.
func TestCopy(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	first, host := newMirror(t, true)
	ref := published(t, host, "v1")
	key := filepath.Join(dir, "key")
	run(t, 0, "keys", "new", key)
	run(t, 0, "sign", "--platform", "linux/amd64", "--key", key, ref)
	artifacts := func(ref string) (all []string) {
		t.Helper()
		parsed, err := source.Parse(ref)
		if err != nil {
			t.Fatal(err)
		}
		img, err := source.Open(t.Context(), parsed, source.Options{Platform: "linux/amd64"})
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		descs, err := img.Repository.Referrers(t.Context(), layout.Digest(img.Manifest.Digest), layout.ReleaseType)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range descs {
			all = append(all, d.Digest.String())
		}
		slices.Sort(all) // a registry lists them in any order
		if _, err := release.Find(t.Context(), img.Repository, layout.Digest(img.Manifest.Digest)); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
		return append(all, string(img.ConfigDigest), img.Manifest.Digest.String())
	}
	want := fmt.Sprint(artifacts(ref))
	accepts := signs(t, ref)
	second, mirrored := newMirror(t, true)
	third, old := newMirror(t, false)
	from := ref
	for _, to := range []string{
		mirrored + "/other/os:v1", "oci-layout:" + dir + "/layout:v1", "oci-archive:" + dir + "/a.tar:v1",
		old + "/os:v1", "oci-archive:" + dir + "/b.tar:v1",
	} {
		out, _ := run(t, 0, "release", "--copy", from, to)
		if !strings.Contains(out, "1 images, 2 release artifacts, 3 signatures of images") {
			t.Errorf("%s: %s", to, out)
		}
		if got := fmt.Sprint(artifacts(to)); got != want {
			t.Errorf("%s has %s, want %s", to, got, want)
		}
		run(t, 0, "verify", "--platform", "linux/amd64", "--key", key+".pub", "--policy", accepts, to)
		if strings.HasPrefix(to, "oci-archive:") {
			from = to
			continue
		}
		uploads := second.uploads.Load() + third.uploads.Load()
		out, _ = run(t, 0, "release", "--copy", from, to)
		uploads = second.uploads.Load() + third.uploads.Load() - uploads
		if uploads != 0 || !strings.Contains(out, "Written 0.0 MB") {
			t.Errorf("again to %s: %d uploads more: %s", to, uploads, out)
		}
		from = to
	}
	// Cosign's signatures are in a layout as if they were images, and are none.
	run(t, 0, "verify", "--platform", "linux/amd64", "--policy", accepts, "oci-layout:"+dir+"/layout")
	a, errA := os.ReadFile(dir + "/a.tar")
	b, errB := os.ReadFile(dir + "/b.tar")
	if errA != nil || errB != nil || len(a) != len(b) {
		t.Errorf("%v, %v, archives of %d and %d bytes", errA, errB, len(a), len(b))
	}

	// Wrong bytes are refused, and nothing has the name then.
	o := source.Options{Platform: "linux/amd64"}
	img, err := source.Open(t.Context(), source.Ref{Kind: source.Registry, Name: ref}, o)
	if err != nil {
		t.Fatal(err)
	}
	art, err := release.Find(t.Context(), img.Repository, layout.Digest(img.Manifest.Digest))
	if err != nil {
		t.Fatal(err)
	}
	damaged := art.Blobs[0].Digest.String()
	first.damage.Store(&damaged)
	_, empty := newMirror(t, true)
	for _, to := range []string{
		empty + "/bad:v1", "oci-layout:" + dir + "/bad:v1", "oci-archive:" + dir + "/bad.tar:v1",
	} {
		if _, errs := run(t, 1, "release", "--copy", ref, to); !strings.Contains(errs, damaged) {
			t.Errorf("%s: %s", to, errs)
		}
		run(t, 1, "verify", "--platform", "linux/amd64", "--key", key+".pub", to)
	}
	left, err := filepath.Glob(dir + "/.tmp-*")
	if err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
	// An image without a release is not copied under its name either.
	plain, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.ParseReference(host + "/plain:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, plain); err != nil {
		t.Fatal(err)
	}
	_, errs := run(t, 1, "release", "--copy", host+"/plain:v1", mirrored+"/plain:v1")
	if !strings.Contains(errs, "publish it with `kairos release") {
		t.Error(errs)
	}
	run(t, 2, "release", "--copy", ref)
	run(t, 2, "release", "--copy", "--sign-key", key, ref, mirrored+"/os:v1")
	run(t, 2, "release", "--copy", ref, "iso:x")
	run(t, 2, "release", "--copy", ref, "oci-layout:"+dir)
}

// A release is made in a registry: nobody is told to make one elsewhere.
func TestToPublish(t *testing.T) {
	for ref, want := range map[string]string{
		"registry.example/os:v1": "`kairos release registry.example/os:v1`",
		"oci-layout:dir:v1":      "`kairos release --copy REF oci-layout:dir:v1`",
		"oci-archive:os.tar":     "`kairos release --copy REF oci-archive:os.tar`",
	} {
		if got := toPublish(ref); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %s", ref, got)
		}
	}
}
