package node

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	testregistry "github.com/google/go-containerregistry/pkg/registry"
	ggcr "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/verity"
)

// hostile is a registry whose answers to requests for parts of blobs are changed, and that counts what it gives.
type hostile struct {
	http.Handler

	mu     sync.Mutex
	change func(w http.ResponseWriter, r *http.Request, answer *httptest.ResponseRecorder) (done bool)
	blobs  map[string]int64 // bytes given of each, where the answer stayed
	resets int
}

func (h *hostile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := httptest.NewRecorder()
	h.Handler.ServeHTTP(answer, r)
	if _, digest, ok := strings.Cut(r.URL.Path, "/blobs/sha256:"); ok && r.Method == http.MethodGet {
		h.mu.Lock()
		change, resets := h.change, h.resets
		h.mu.Unlock()
		if change != nil && change(w, r, answer) {
			return
		}
		h.mu.Lock()
		if resets == h.resets { // else who has asked is gone
			h.blobs[digest] += int64(answer.Body.Len())
		}
		h.mu.Unlock()
	}
	for k, v := range answer.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// reset changes answers from now on, and begins to count.
func (h *hostile) reset(
	change func(http.ResponseWriter, *http.Request, *httptest.ResponseRecorder) bool,
) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.change, h.blobs = change, map[string]int64{}
	h.resets++
}

// given returns the bytes that were given of some blobs.
func (h *hostile) given(of func(digest string) bool) (n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for digest, given := range h.blobs {
		if of(digest) {
			n += given
		}
	}
	return n
}

// beside serves an image with its release beside it, as a machine that has converted its layers knows it.
func beside(t *testing.T, m *Machine, img testImage) (*hostile, source.Ref, release.Artifact) {
	t.Helper()
	h := &hostile{blobs: map[string]int64{}, Handler: testregistry.New(
		testregistry.Logger(log.New(io.Discard, "", 0)), testregistry.WithReferrersSupport(true),
	)}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	ref := strings.TrimPrefix(srv.URL, "http://") + "/os:v2"
	path, err := ggcr.FromPath(img.dir)
	if err != nil {
		t.Fatal(err)
	}
	index, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := path.Image(list.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, pushed); err != nil {
		t.Fatal(err)
	}
	src := source.Ref{Kind: source.Registry, Name: ref}
	// Without a release beside it, the image is converted: what is published are the same bytes.
	if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src}); err != nil {
		t.Fatal(err)
	}
	r, err := m.State.Release(img.id)
	if err != nil {
		t.Fatal(err)
	}
	repo, desc, err := registry.Find(t.Context(), ref, registry.Options{AuthFiles: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	var blobs []io.ReaderAt
	for _, l := range r.Layers {
		f, err := m.State.OpenBlob(l.DiffID)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		blobs = append(blobs, f)
	}
	if _, err := release.Push(t.Context(), repo, desc, r, blobs, release.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	a, err := release.Find(t.Context(), repo, layout.Digest(desc.Digest))
	if err != nil {
		t.Fatal(err)
	}
	h.blobs = map[string]int64{}
	return h, src, a
}

// large makes images that share a large layer but for one block of it, and whose last layer differs.
func large(t *testing.T) (a, b testImage) {
	t.Helper()
	content := noise(3 << 20)
	one := tarOf(t, map[string]string{"big": content, "other": "one"})
	two := tarOf(t, map[string]string{"big": content[:1<<20] + "changed" + content[1<<20+7:], "other": "two"})
	boot := bootLayer(t, "loader 1")
	return newImage(t, runtime.GOARCH, one, boot), newImage(t, runtime.GOARCH, two, boot)
}

func sameStore(t *testing.T, a, b *store.Store, r layout.Release) {
	t.Helper()
	for _, l := range r.Layers {
		x, errX := os.ReadFile(a.BlobPath(l.DiffID))
		y, errY := os.ReadFile(b.BlobPath(l.DiffID))
		if errX != nil || errY != nil || !bytes.Equal(x, y) {
			t.Errorf("layer %s differs: %v, %v", l.DiffID, errX, errY)
		}
	}
	name := layout.ReleasePath(r.ID())
	x, errX := os.ReadFile(filepath.Join(a.Dir(), name))
	y, errY := os.ReadFile(filepath.Join(b.Dir(), name))
	if errX != nil || errY != nil || !bytes.Equal(x, y) {
		t.Errorf("%v, %v\n%s\n%s", errX, errY, x, y)
	}
}

// A published release is fetched by blocks, and what lands in the store are the bytes that a conversion here makes.
func TestPublishedRelease(t *testing.T) {
	a, b := large(t)
	first := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	reg, src, art := beside(t, first, b)
	m := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src})
	if err != nil {
		t.Fatal(err)
	}
	sameStore(t, first.State, m.State, art.Release)
	tree := verity.TotalSize(art.Release.Layers[0].Size) - art.Release.Layers[0].Size
	if size := art.Release.Layers[0].Size; r.Fetched > tree+10*4096 || r.Fetched <= tree ||
		r.Reused < 3<<20-10*4096 || r.Written != size {
		t.Errorf("%+v, and the tree has %d bytes", r.Transfer, tree)
	}
	if given := reg.blobs[art.Blobs[0].Digest.Encoded()]; given != r.Fetched {
		t.Errorf("the registry has given %d bytes of the blob, and %d were counted", given, r.Fetched)
	}
	for digest, n := range reg.blobs {
		if n > 64<<10 {
			t.Errorf("%d bytes of blob %s", n, digest)
		}
	}
	// An image that is named by its digest is converted: the release is not signed.
	pinned := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	src.Name = strings.TrimSuffix(src.Name, ":v2") + "@" + art.Subject.Digest.String()
	r, err = pinned.Upgrade(t.Context(), UpgradeOptions{Source: src})
	if err != nil || r.Fetched < 2<<20 || r.Ranges != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	sameStore(t, first.State, pinned.State, art.Release)
}

// Whatever a registry answers when it is asked for parts: the right bytes are in the store in the end, or none.
func TestHostileRegistry(t *testing.T) {
	a, b := large(t)
	first := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	reg, src, art := beside(t, first, b)
	blob := art.Blobs[0].Digest.Encoded()
	send := func(w http.ResponseWriter, code int, header map[string]string, body []byte) bool {
		for k, v := range header {
			w.Header().Set(k, v)
		}
		w.WriteHeader(code)
		_, _ = w.Write(body)
		return true
	}
	full := func() []byte {
		b, err := os.ReadFile(first.State.BlobPath(art.Release.Layers[0].DiffID))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, change := range map[string]func(http.ResponseWriter, *http.Request, *httptest.ResponseRecorder) bool{
		"ranges ignored": func(w http.ResponseWriter, _ *http.Request, _ *httptest.ResponseRecorder) bool {
			return send(w, http.StatusOK, nil, full())
		},
		"ranges refused": func(w http.ResponseWriter, r *http.Request, _ *httptest.ResponseRecorder) bool {
			return r.Header.Get("Range") != "" && send(w, http.StatusRequestedRangeNotSatisfiable, nil, nil)
		},
		"another range": func(w http.ResponseWriter, r *http.Request, a *httptest.ResponseRecorder) bool {
			h := map[string]string{"Content-Range": "bytes 0-4095/*"}
			return r.Header.Get("Range") != "" && send(w, http.StatusPartialContent, h, a.Body.Bytes())
		},
		"another length": func(w http.ResponseWriter, r *http.Request, a *httptest.ResponseRecorder) bool {
			h := map[string]string{"Content-Range": a.Header().Get("Content-Range")}
			return r.Header.Get("Range") != "" && send(w, http.StatusPartialContent, h, append(a.Body.Bytes(), 0))
		},
		"wrong bytes": func(w http.ResponseWriter, r *http.Request, a *httptest.ResponseRecorder) bool {
			h := map[string]string{"Content-Range": a.Header().Get("Content-Range")}
			return r.Header.Get("Range") != "" &&
				send(w, http.StatusPartialContent, h, bytes.Repeat([]byte("x"), a.Body.Len()))
		},
		"blob gone": func(w http.ResponseWriter, _ *http.Request, _ *httptest.ResponseRecorder) bool {
			return send(w, http.StatusNotFound, nil, nil)
		},
		"cut in the middle": func(w http.ResponseWriter, r *http.Request, a *httptest.ResponseRecorder) bool {
			if r.Header.Get("Range") == "" {
				return false
			}
			w.Header().Set("Content-Range", a.Header().Get("Content-Range"))
			w.Header().Set("Content-Length", fmt.Sprint(a.Body.Len()))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(a.Body.Bytes()[:a.Body.Len()/2])
			panic(http.ErrAbortHandler)
		},
		"wrong bytes everywhere": func(w http.ResponseWriter, r *http.Request, a *httptest.ResponseRecorder) bool {
			h := map[string]string{"Content-Range": a.Header().Get("Content-Range")}
			return send(w, a.Code, h, bytes.Repeat([]byte("x"), a.Body.Len()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := install(t, t.TempDir(), "uefi", t.TempDir(), a)
			reg.reset(func(w http.ResponseWriter, r *http.Request, a *httptest.ResponseRecorder) bool {
				return strings.Contains(r.URL.Path, blob) && change(w, r, a)
			})
			defer reg.reset(nil)
			if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src}); err != nil {
				t.Fatal(err)
			}
			// At worst it was converted.
			sameStore(t, first.State, m.State, art.Release)
		})
	}
}

// A busy registry says when to come again.
func TestBusyRegistry(t *testing.T) {
	a, b := large(t)
	first := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	reg, src, art := beside(t, first, b)
	m := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	var mu sync.Mutex
	busy := 0
	reg.reset(func(w http.ResponseWriter, r *http.Request, _ *httptest.ResponseRecorder) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("Range") == "" || busy > 1 {
			return false
		}
		busy++
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src})
	if err != nil || r.Fetched == 0 || busy != 2 {
		t.Errorf("%+v, %v, busy %d times", r, err, busy)
	}
	sameStore(t, first.State, m.State, art.Release)
}

// Blobs are often elsewhere, and a token lives shorter than a download: neither costs more than the blocks.
func TestRangesOfOtherHosts(t *testing.T) {
	a, b := large(t)
	first := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	reg, src, art := beside(t, first, b)
	blob := art.Blobs[0].Digest.Encoded()

	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.URL.RawQuery != "signed" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		http.ServeFile(w, r, first.State.BlobPath(art.Release.Layers[0].DiffID))
	}))
	defer elsewhere.Close()
	var mu sync.Mutex
	valid, used := 1, 0
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, `{"token":"t%d"}`, valid)
	}))
	defer tokens.Close()

	for name, change := range map[string]func(http.ResponseWriter, *http.Request, *httptest.ResponseRecorder) bool{
		"redirected": func(w http.ResponseWriter, r *http.Request, _ *httptest.ResponseRecorder) bool {
			http.Redirect(w, r, elsewhere.URL+"/x?signed", http.StatusTemporaryRedirect)
			return true
		},
		"expired token": func(w http.ResponseWriter, r *http.Request, _ *httptest.ResponseRecorder) bool {
			mu.Lock()
			defer mu.Unlock()
			if r.Header.Get("Authorization") == fmt.Sprintf("Bearer t%d", valid) {
				if used++; used == 1 {
					valid++ // after the tree
				}
				return false
			}
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(
				`Bearer realm="%s/token",service="s",scope="repository:os:pull",error="invalid_token"`, tokens.URL,
			))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := install(t, t.TempDir(), "uefi", t.TempDir(), a)
			reg.reset(func(w http.ResponseWriter, r *http.Request, a *httptest.ResponseRecorder) bool {
				return strings.Contains(r.URL.Path, blob) && change(w, r, a)
			})
			defer reg.reset(nil)
			r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src})
			if err != nil {
				t.Fatal(err)
			}
			sameStore(t, first.State, m.State, art.Release)
			if r.Fetched == 0 || r.Fetched > 128<<10 || r.Reused < 2<<20 {
				t.Errorf("%+v", r.Transfer)
			}
		})
	}
	if used < 2 {
		t.Errorf("%d answers with a token", used)
	}
}
