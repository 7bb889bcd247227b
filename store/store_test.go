package store

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

// layerTar returns a layer with one file, and its diffID.
func layerTar(t testing.TB, name, content string) ([]byte, layout.Digest) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, content)
	w.Close()
	sum := sha256.Sum256(b.Bytes())
	return b.Bytes(), layout.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

func add(t testing.TB, s *Store, name, content string) layout.Layer {
	t.Helper()
	b, id := layerTar(t, name, content)
	layer, err := s.AddLayer(t.Context(), id, bytes.NewReader(b), erofs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

func release(config string, layers ...layout.Layer) layout.Release {
	sum := sha256.Sum256([]byte(config))
	return layout.Release{
		Version: "v1",
		Config:  layout.Digest("sha256:" + hex.EncodeToString(sum[:])),
		Arch:    "amd64",
		Layers:  layers,
	}
}

// names lists all files below a folder.
func names(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, p)
			all = append(all, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAddedLayerIsWhatForeignToolsAccept(t *testing.T) {
	s := New(t.TempDir())
	layer := add(t, s, "hello", "world")
	got, ok, err := s.Layer(layer.DiffID)
	if err != nil || !ok || got != layer {
		t.Fatalf("Layer = %+v, %v, %v; want %+v", got, ok, err, layer)
	}
	if err := s.VerifyBlob(layer); err != nil {
		t.Error(err)
	}
	blob := s.BlobPath(layer.DiffID)
	out, err := exec.Command("veritysetup", "verify", blob, blob, layer.RootHash,
		fmt.Sprint("--hash-offset=", layer.Size)).CombinedOutput()
	if err != nil {
		t.Errorf("veritysetup (package cryptsetup-bin): %v\n%s", err, out)
	}
	if out, err := exec.Command("fsck.erofs", blob).CombinedOutput(); err != nil {
		t.Errorf("fsck.erofs (package erofs-utils): %v\n%s", err, out)
	}
	tree, err := s.Tree([]layout.Layer{layer})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if b, err := fs.ReadFile(tree, "hello"); err != nil || string(b) != "world" {
		t.Errorf("hello = %q, %v", b, err)
	}
}

func TestRefusedLayerLeavesNothing(t *testing.T) {
	b, id := layerTar(t, "hello", "world")
	_, other := layerTar(t, "hello", "changed")
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	broken := errors.New("connection reset")
	for name, c := range map[string]struct {
		ctx context.Context
		id  layout.Digest
		r   io.Reader
	}{
		"other digest": {t.Context(), other, bytes.NewReader(b)},
		"more bytes":   {t.Context(), id, bytes.NewReader(append(bytes.Clone(b), 0))},
		"truncated":    {t.Context(), id, bytes.NewReader(b[:600])},
		"no tar":       {t.Context(), id, strings.NewReader(strings.Repeat("x", 2048))},
		"read error":   {t.Context(), id, io.MultiReader(bytes.NewReader(b[:700]), failing{broken})},
		"canceled":     {canceled, id, bytes.NewReader(b)},
		"not a digest": {t.Context(), "sha256:../../x", bytes.NewReader(b)},
	} {
		s := New(t.TempDir())
		if _, err := s.AddLayer(c.ctx, c.id, c.r, erofs.Options{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if n := names(t, s.Dir()); len(n) != 0 {
			t.Errorf("%s: left %v", name, n)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestLayerThatIsThereIsNotRead(t *testing.T) {
	s := New(t.TempDir())
	layer := add(t, s, "hello", "world")
	got, err := s.AddLayer(t.Context(), layer.DiffID, failing{errors.New("read")}, erofs.Options{})
	if err != nil || got != layer {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestCopyBlobChecks(t *testing.T) {
	from, to := New(t.TempDir()), New(t.TempDir())
	layer := add(t, from, "hello", strings.Repeat("world", 10000))
	b, err := os.ReadFile(from.BlobPath(layer.DiffID))
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"cut":     b[:layer.Size-1],
		"flipped": append([]byte{b[0] ^ 1}, b[1:]...),
	} {
		if _, err := to.CopyBlob(t.Context(), layer, bytes.NewReader(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if n := names(t, to.Dir()); len(n) != 0 {
			t.Errorf("%s: left %v", name, n)
		}
	}
	if _, err := to.CopyBlob(t.Context(), layer, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(to.BlobPath(layer.DiffID)); err != nil || !bytes.Equal(got, b) {
		t.Errorf("the copy differs: %v", err)
	}
}

func TestDamagedBlobIsRebuilt(t *testing.T) {
	for name, damage := range map[string]func(s *Store, id layout.Digest) error{
		"truncated":  func(s *Store, id layout.Digest) error { return os.Truncate(s.BlobPath(id), 4096) },
		"empty":      func(s *Store, id layout.Digest) error { return os.Truncate(s.BlobPath(id), 0) },
		"no sidecar": func(s *Store, id layout.Digest) error { return os.Remove(s.path(layout.SidecarPath(id))) },
		"damaged sidecar": func(s *Store,
			id layout.Digest) error {
			return os.Truncate(s.path(layout.SidecarPath(id)), 10)
		},
	} {
		s := New(t.TempDir())
		layer := add(t, s, "hello", strings.Repeat("world", 10000))
		if err := damage(s, layer.DiffID); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := s.Layer(layer.DiffID); ok || err != nil {
			t.Errorf("%s: Layer says %v, %v", name, ok, err)
		}
		add(t, s, "hello", strings.Repeat("world", 10000))
		if err := s.VerifyBlob(layer); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSeveralAddTheSameLayer(t *testing.T) {
	dir := t.TempDir()
	b, id := layerTar(t, "hello", strings.Repeat("world", 100000))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := New(dir).AddLayer(t.Context(), id, bytes.NewReader(b), erofs.Options{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := names(t, dir); len(n) != 2 {
		t.Errorf("files: %v", n)
	}
}

func TestReleases(t *testing.T) {
	s := New(t.TempDir())
	a, b := add(t, s, "a", "a"), add(t, s, "b", "b")
	r := release("r", a, b)
	r.Image = "registry.example/os:v1"
	// A record of the first format is read, and replaced in its place.
	if err := s.AddRelease(r.AsV1()); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Release(r.ID()); err != nil || !got.V1 || got.Image != r.Image {
		t.Errorf("first format: %+v, %v", got, err)
	}
	if err := s.AddRelease(r); err != nil {
		t.Fatal(err)
	}
	if err := s.AddRelease(r); err != nil {
		t.Errorf("again: %v", err)
	}
	if got, err := s.Release(r.ID()); err != nil || got.Version != "v1" || got.V1 || got.Image != r.Image {
		t.Errorf("%+v, %v", got, err)
	}
	if err := s.VerifyRelease(r.ID()); err != nil {
		t.Error(err)
	}
	missing := a
	missing.DiffID = r.Config
	if err := s.AddRelease(release("m", missing)); err == nil {
		t.Error("release without its layer accepted")
	}
	if _, err := s.Release("000000000000"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such release: %v", err)
	}
	if _, err := s.Release("../../etc/xx"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("escape: %v", err)
	}
	// A damaged one is listed with its error.
	if err := os.Truncate(s.path(layout.ReleasePath(r.ID())), 20); err != nil {
		t.Fatal(err)
	}
	found, err := s.Releases()
	if err != nil || len(found) != 1 || found[0].Err == nil {
		t.Errorf("%+v, %v", found, err)
	}
	if err := s.removeRelease(r.ID()); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(s.path(layout.ReleasesDir)); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestGCKeepsWhatIsNeeded(t *testing.T) {
	s := New(t.TempDir())
	shared, old, new := add(t, s, "shared", ""), add(t, s, "old", ""), add(t, s, "new", "")
	r1, r2 := release("1", shared, old), release("2", shared, new)
	for _, r := range []layout.Release{r1, r2} {
		if err := s.AddRelease(r); err != nil {
			t.Fatal(err)
		}
	}
	leftover := durable.TempName(s.BlobPath(r1.Config))
	os.MkdirAll(filepath.Dir(leftover), 0o755)
	if err := os.WriteFile(leftover, make([]byte, 100), 0o644); err != nil {
		t.Fatal(err)
	}
	done, err := s.GC(t.Context(), []string{r2.ID()})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(done.Releases, []string{r1.ID()}) || !slices.Equal(done.Blobs, []layout.Digest{old.DiffID}) ||
		done.Bytes != 100+verity.TotalSize(old.Size) {
		t.Errorf("removed %+v", done)
	}
	if err := s.VerifyRelease(r2.ID()); err != nil {
		t.Error(err)
	}
	if n := names(t, s.Dir()); len(n) != 5 {
		t.Errorf("left %v", n)
	}
	// When it is not known what a kept release needs, nothing goes.
	if err := os.Truncate(s.path(layout.ReleasePath(r2.ID())), 20); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GC(t.Context(), []string{r2.ID()}); err == nil {
		t.Error("collected although a kept release is damaged")
	}
	if n := names(t, s.Dir()); len(n) != 5 {
		t.Errorf("left %v", n)
	}
}

func TestCache(t *testing.T) {
	dir := t.TempDir()
	c := NewCache(dir, 0)
	get := func(c *Cache, content string) *Blob {
		t.Helper()
		b, id := layerTar(t, "f", content)
		blob, err := c.Get(t.Context(), id, erofs.Options{}, func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(b)), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { blob.Close() })
		return blob
	}
	first := get(c, "one")
	if first.Hit || !get(c, "one").Hit {
		t.Error("want a miss, then a hit")
	}
	file := first.ReaderAt.(*os.File)
	if info, err := file.Stat(); err != nil || info.Size() != first.TotalSize() {
		t.Errorf("size %d, want %d (%v)", info.Size(), first.TotalSize(), err)
	}
	// A damaged blob is found out and rebuilt.
	f, err := os.OpenFile(file.Name(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff, 0xff, 0xff}, 1100); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if get(c, "one").Hit || !get(c, "one").Hit {
		t.Error("damage: want a miss, then a hit")
	}
	// The longest unused goes first.
	get(c, "two")
	get(c, "one")
	small := NewCache(dir, 2*first.TotalSize())
	get(small, "three")
	if !get(small, "one").Hit {
		t.Error("the one just used was removed")
	}
	if get(small, "two").Hit {
		t.Error("the longest unused was kept")
	}
}

// Two images whose IDs begin with the same digits are two releases; the second one is refused.
func TestReleaseKeepsItsID(t *testing.T) {
	s := New(t.TempDir())
	layer := add(t, s, "hello", "world")
	first, second := release("first", layer), release("second", layer)
	second.Config = first.Config[:len(first.Config)-1] + "0"
	if second.Config == first.Config {
		second.Config = first.Config[:len(first.Config)-1] + "1"
	}
	if err := s.AddRelease(first); err != nil {
		t.Fatal(err)
	}
	var collision *CollisionError
	if err := s.AddRelease(second); !errors.As(err, &collision) || collision.Have != first.Config {
		t.Errorf("a second release of the same id: %v", err)
	}
	if have, err := s.Release(first.ID()); err != nil || have.Config != first.Config {
		t.Errorf("the first release is %+v, %v", have, err)
	}
}
