package node

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/release"
)

// answering changes an answer to the nth GET, from 1 on; false: it stays.
type answering func(n int, w http.ResponseWriter, r *http.Request, answer *httptest.ResponseRecorder) bool

// front is a registry before another one, with answers of its own.
func front(t *testing.T, behind http.Handler, change answering) (src source.Ref, asked func() int) {
	t.Helper()
	var mu sync.Mutex
	n := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		behind.ServeHTTP(answer, r)
		if r.Method == http.MethodGet {
			mu.Lock()
			n++
			nth := n
			mu.Unlock()
			if change != nil && change(nth, w, r, answer) {
				return
			}
		}
		give(w, answer, answer.Body.Bytes())
	}))
	t.Cleanup(srv.Close)
	return source.Ref{Kind: source.Registry, Name: strings.TrimPrefix(srv.URL, "http://") + "/os:v2"}, func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// give answers as another one, with this body, whose length is said to be that of the other.
func give(w http.ResponseWriter, answer *httptest.ResponseRecorder, body []byte) {
	for k, v := range answer.Header() {
		w.Header()[k] = v
	}
	if answer.Body.Len() > 0 {
		w.Header().Set("Content-Length", fmt.Sprint(answer.Body.Len()))
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(body)
}

// cut ends the connection in the middle of an answer.
func cut(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
	give(w, answer, answer.Body.Bytes()[:answer.Body.Len()/2])
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
	panic(http.ErrAbortHandler)
}

// verifies says whether all that a machine has is what its name says, and whether this release is active.
func verifies(t *testing.T, m *Machine, id string) {
	t.Helper()
	all, err := m.State.Blobs()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if err := m.State.VerifyBlob(l); err != nil {
			t.Error(err)
		}
	}
	slots, err := m.ESP.State()
	if err != nil {
		t.Fatal(err)
	}
	if active, ok := slots.Active(); !ok || active.ID != id || !m.complete(m.State, id) {
		t.Errorf("%+v is active, want %s, complete", active, id)
	}
}

// Whatever is wrong about one thing that a registry gives, each time: the release is in the store as it should be, by
// blocks, as whole blobs or converted; or the upgrade is refused, and all is as it was.
func TestHostileRegistryAnswers(t *testing.T) {
	t.Parallel()
	a, b := largeChange(t)
	first := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	reg, _, art := beside(t, first, b)
	l, blob := art.Release.Layers[0], art.Blobs[0].Digest.String()
	manifest, _, err := art.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	recordOf, err := release.RecordOf(manifest)
	if err != nil {
		t.Fatal(err)
	}
	artifact, image := digest.FromBytes(manifest).String(), art.Subject.Digest.String()
	tree := fmt.Sprintf("bytes=%d-", l.Size)
	isTree := func(r *http.Request) bool { return strings.HasPrefix(r.Header.Get("Range"), tree) }
	isData := func(r *http.Request) bool { return r.Header.Get("Range") != "" && !isTree(r) }
	flipped := func(p []byte) []byte {
		p = bytes.Clone(p)
		p[len(p)/2] ^= 1
		return p
	}
	of := func(digest string, which func(*http.Request) bool, body func([]byte) []byte) answering {
		return func(_ int, w http.ResponseWriter, r *http.Request, answer *httptest.ResponseRecorder) bool {
			if !strings.HasSuffix(r.URL.Path, digest) || which != nil && !which(r) {
				return false
			}
			give(w, answer, body(answer.Body.Bytes()))
			return true
		}
	}
	status := func(digest string, which func(*http.Request) bool, code int, header ...string) answering {
		return func(_ int, w http.ResponseWriter, r *http.Request, _ *httptest.ResponseRecorder) bool {
			if !strings.HasSuffix(r.URL.Path, digest) || which != nil && !which(r) {
				return false
			}
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
			return true
		}
	}
	half := func(p []byte) []byte { return p[:len(p)/2] }
	zeros := func(p []byte) []byte { return make([]byte, len(p)) }
	swapped := func(p []byte) []byte {
		n := len(p) / 2 / 4096 * 4096
		return append(bytes.Clone(p[n:]), p[:n]...)
	}
	// The right headers, and the bytes of the blob's beginning.
	beginning, err := os.ReadFile(first.State.BlobPath(l.DiffID))
	if err != nil {
		t.Fatal(err)
	}
	anothers := func(p []byte) []byte { return beginning[:len(p)] }
	longer := func(_ int, w http.ResponseWriter, r *http.Request, answer *httptest.ResponseRecorder) bool {
		if !strings.HasSuffix(r.URL.Path, blob) || !isData(r) {
			return false
		}
		w.Header().Set("Content-Range", answer.Header().Get("Content-Range"))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(append(answer.Body.Bytes(), zeros(answer.Body.Bytes())...))
		return true
	}
	var cases []*attempt
	for name, c := range map[string]struct {
		change  answering
		refused bool
	}{
		"wrong bytes in the tree":         {change: of(blob, isTree, flipped)},
		"truncated tree":                  {change: of(blob, isTree, half)},
		"another blob's tree":             {change: of(blob, isTree, zeros)},
		"wrong bytes in a range":          {change: of(blob, isData, flipped)},
		"truncated range":                 {change: of(blob, isData, half)},
		"swapped blocks in a range":       {change: of(blob, isData, swapped)},
		"another range's bytes":           {change: of(blob, isData, anothers)},
		"a longer range":                  {change: longer},
		"the beginning for the tree":      {change: of(blob, isTree, anothers)},
		"unauthorized in the middle":      {change: status(blob, isData, 401)},
		"broken in the middle":            {change: status(blob, isData, 502)},
		"the list of referrers is cut":    {change: of("/referrers/"+image, nil, half)},
		"truncated everywhere":            {change: of(blob, nil, half)},
		"wrong bytes in the artifact":     {change: of(artifact, nil, flipped)},
		"truncated artifact":              {change: of(artifact, nil, half)},
		"wrong bytes in the record":       {change: of(recordOf.Digest.String(), nil, flipped)},
		"truncated record":                {change: of(recordOf.Digest.String(), nil, half)},
		"the list of referrers is none":   {change: of("/referrers/"+image, nil, flipped)},
		"the list of referrers is broken": {change: status("/referrers/"+image, nil, 500)},
		"blob gone":                       {change: status(blob, nil, 404)},
		"blob forbidden":                  {change: status(blob, nil, 403)},
		"redirected in circles": {change: func(
			_ int, w http.ResponseWriter, r *http.Request, _ *httptest.ResponseRecorder,
		) bool {
			if strings.HasSuffix(r.URL.Path, blob) {
				http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
				return true
			}
			return false
		}},
		"206 without a range": {
			change: status(blob, isData, http.StatusPartialContent, "Content-Length", "0"),
		},
		"busy for ever":               {change: status(blob, nil, 429, "Retry-After", "0")},
		"busy for a year":             {change: status(blob, nil, 429, "Retry-After", "31536000")},
		"wrong bytes in the manifest": {refused: true, change: of("/manifests/"+image, nil, flipped)},
		"truncated manifest":          {refused: true, change: of("/manifests/"+image, nil, half)},
		"wrong bytes in the config":   {refused: true, change: of(string(art.Release.Config), nil, flipped)},
		"truncated config":            {refused: true, change: of(string(art.Release.Config), nil, half)},
	} {
		src, _ := front(t, reg.Handler, c.change)
		cases = append(cases, &attempt{name: name, refused: c.refused, src: src})
	}
	attempts(t, a, cases)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.refused {
				if c.err == nil {
					t.Error("accepted")
				}
				verifies(t, c.m, a.id)
				return
			}
			if c.err != nil {
				t.Fatal(c.err)
			}
			verifies(t, c.m, b.id)
			sameStore(t, first.State, c.m.State, art.Release)
		})
	}
}

// attempt is an upgrade from a registry.
type attempt struct {
	name    string
	refused bool
	src     source.Ref
	m       *Machine
	err     error
}

// attempts makes upgrades at the same time: most of them wait for another try.
func attempts(t *testing.T, from testImage, all []*attempt) {
	t.Helper()
	var wg sync.WaitGroup
	for _, a := range all {
		a.m = install(t, t.TempDir(), "uefi", t.TempDir(), from)
		wg.Go(func() { _, a.err = a.m.Upgrade(t.Context(), UpgradeOptions{Source: a.src}) })
	}
	wg.Wait()
}

// largeChange is large, but for a change of many blocks.
func largeChange(t *testing.T) (a, b testImage) {
	t.Helper()
	content := noise(3 << 20)
	other := []byte(content)
	for i := range other[1<<20 : 1<<20+256<<10] {
		other[1<<20+i] ^= 0x55
	}
	boot := bootLayer(t, "loader 1")
	return newImage(t, runtime.GOARCH, tarOf(t, map[string]string{"big": content}), boot),
		newImage(t, runtime.GOARCH, tarOf(t, map[string]string{"big": string(other)}), boot)
}

// A connection that is cut in any request: the upgrade is done all the same, or the next one does it.
func TestConnectionCutInEachRequest(t *testing.T) {
	t.Parallel()
	a, b := largeChange(t)
	first := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	reg, _, art := beside(t, first, b)
	src, asked := front(t, reg.Handler, nil)
	clean := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	if r, err := clean.Upgrade(t.Context(), UpgradeOptions{Source: src}); err != nil || r.Reused == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	requests := asked()
	if requests < 5 {
		t.Fatalf("only %d requests", requests)
	}
	var cases []*attempt
	for at := range requests {
		src, _ := front(t, reg.Handler, func(
			n int, w http.ResponseWriter, _ *http.Request, answer *httptest.ResponseRecorder,
		) bool {
			if n == at+1 {
				cut(w, answer)
			}
			return false
		})
		cases = append(cases, &attempt{name: fmt.Sprint(at + 1), src: src})
	}
	attempts(t, a, cases)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.err != nil {
				verifies(t, c.m, a.id)
				if _, err := c.m.Upgrade(t.Context(), UpgradeOptions{Source: c.src}); err != nil {
					t.Fatal(err)
				}
			}
			verifies(t, c.m, b.id)
			sameStore(t, first.State, c.m.State, art.Release)
		})
	}
}
