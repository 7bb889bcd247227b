package node

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/internal/durable/powercut"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/release/blocks"
	"github.com/kairos-buildkit/kairos/verity"
)

// apart is how far changed blocks are from each other: further than ranges are joined over.
const apart = 200 << 10

// spots makes images whose layer differs in some blocks, far from each other.
func spots(t *testing.T, changes, far int) (a, b testImage) {
	t.Helper()
	content := noise(changes * far)
	changed := []byte(content)
	for i := range changes {
		copy(changed[i*far+10_000:], "changed")
	}
	boot := bootLayer(t, "loader 1")
	return newImage(t, runtime.GOARCH, tarOf(t, map[string]string{"big": content}), boot),
		newImage(t, runtime.GOARCH, tarOf(t, map[string]string{"big": string(changed)}), boot)
}

// interrupted is an upgrade by blocks that ended before it was done.
type interrupted struct {
	b      testImage
	reg    *hostile
	src    source.Ref
	art    release.Artifact
	whole  []byte // the new layer's blob
	old    []byte // the one that is there
	digest string
}

// interruptible prepares one from a to b, and returns the disk of a node that has a.
func interruptible(t *testing.T, a, b testImage) (interrupted, powercut.State) {
	t.Helper()
	first := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	reg, src, art := beside(t, first, b)
	disk := t.TempDir()
	m := install(t, disk, "uefi", t.TempDir(), a)
	r, err := m.State.Release(a.id)
	if err != nil {
		t.Fatal(err)
	}
	x := interrupted{b: b, reg: reg, src: src, art: art, digest: art.Blobs[0].Digest.Encoded()}
	var errWhole, errOld error
	x.whole, errWhole = os.ReadFile(first.State.BlobPath(art.Release.Layers[0].DiffID))
	x.old, errOld = os.ReadFile(m.State.BlobPath(r.Layers[0].DiffID))
	state, err := powercut.Read(disk)
	if err := errors.Join(err, errWhole, errOld); err != nil {
		t.Fatal(err)
	}
	return x, state
}

// begun is the file that an interrupted run leaves of the new layer.
func (x interrupted) begun(disk string) string {
	return durable.TempName(filepath.Join(disk, stateDir, layout.BlobPath(x.art.Release.Layers[0].DiffID)))
}

// missing counts the blocks of the new layer that are neither at any place of the old one nor in what is begun.
func (x interrupted) missing(begun []byte) (n int64) {
	here := map[string]bool{}
	for i := 0; i+4096 <= len(x.old); i += 4096 {
		here[string(x.old[i:i+4096])] = true
	}
	for i := 0; i < int(x.art.Release.Layers[0].Size); i += 4096 {
		want := x.whole[i : i+4096]
		if !here[string(want)] && (len(begun) < i+4096 || !bytes.Equal(begun[i:i+4096], want)) {
			n++
		}
	}
	return n
}

// goesOn judges what an interrupted run has left on a disk, and has the next one go on with it.
func (x interrupted) goesOn(t *testing.T, disk, booted string) {
	t.Helper()
	m := fakeMachine(t, disk, "uefi", booted, t.TempDir(), nil)
	verifies(t, m, booted)
	if _, ok, err := m.State.Layer(x.art.Release.Layers[0].DiffID); ok || err != nil {
		t.Errorf("a layer that was not fetched to its end is there: %v", err)
	}
	begun, err := os.ReadFile(x.begun(disk))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	want := x.missing(begun)
	x.reg.reset(nil)
	r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: x.src})
	if err != nil {
		t.Fatal(err)
	}
	tree := int64(len(x.whole)) - x.art.Release.Layers[0].Size
	// A changed file is far from the next, but the superblock that differs is near to a directory that does.
	gap := blocks.Joined().Gap
	if least := tree + want*verity.BlockSize; r.Fetched < least || r.Fetched > least+gap || r.Ranges > want {
		t.Errorf("%+v, and %d blocks were missing, beside a tree of %d bytes", r.Transfer, want, tree)
	}
	if given := x.reg.given(func(d string) bool { return d == x.digest }); given != r.Fetched {
		t.Errorf("the registry gave %d bytes, and %d were counted", given, r.Fetched)
	}
	verifies(t, m, x.b.id)
	have, err := os.ReadFile(m.State.BlobPath(x.art.Release.Layers[0].DiffID))
	if err != nil || !bytes.Equal(have, x.whole) {
		t.Errorf("another blob: %v", err)
	}
	noLeftovers(t, disk)
}

// leftovers are what a power cut may leave of a file that is being written: of what was not flushed, any part.
var leftovers = map[string]func(r *rand.Rand, b []byte) []byte{
	"all of it": func(_ *rand.Rand, b []byte) []byte { return b },
	"its name":  func(*rand.Rand, []byte) []byte { return []byte{} },
	"nothing":   func(*rand.Rand, []byte) []byte { return nil },
	"its beginning": func(r *rand.Rand, b []byte) []byte {
		return b[:r.IntN(len(b)/512+1)*512]
	},
	"some of its blocks":  func(r *rand.Rand, b []byte) []byte { return holes(r, b, 4096, nil) },
	"some of its sectors": func(r *rand.Rand, b []byte) []byte { return holes(r, b, 512, nil) },
	"blocks of other files": func(r *rand.Rand, b []byte) []byte {
		return holes(r, b, 4096, []byte(noise(4096)))
	},
	"more than it": func(_ *rand.Rand, b []byte) []byte { return append(b, noise(1<<20)...) },
}

// holes has half of a file's parts lost.
func holes(r *rand.Rand, b []byte, size int, instead []byte) []byte {
	for i := 0; i < len(b); i += size {
		if r.IntN(2) == 0 {
			part := b[i:min(i+size, len(b))]
			clear(part)
			copy(part, instead)
		}
	}
	return b
}

// The power is cut after each range that is written, and of the file there is any part: no blob that is complete has a
// wrong block, and the next run fetches what is missing and nothing else.
func TestPowerCutAfterEachRange(t *testing.T) {
	const changes = 6
	a, b := spots(t, changes, apart)
	x, before := interruptible(t, a, b)
	seen := map[int64]bool{}
	for after := range changes + 1 {
		disk := t.TempDir()
		if err := before.Write(disk); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var asked atomic.Int64
		x.reg.reset(func(_ http.ResponseWriter, r *http.Request, _ *httptest.ResponseRecorder) bool {
			if strings.Contains(r.URL.Path, x.digest) && asked.Add(1) > int64(after) {
				cancel()
				panic(http.ErrAbortHandler)
			}
			return false
		})
		m := fakeMachine(t, disk, "uefi", a.id, t.TempDir(), nil)
		if _, err := m.Upgrade(ctx, UpgradeOptions{Source: x.src}); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		begun, err := os.ReadFile(x.begun(disk))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		seen[x.missing(begun)] = true
		left, err := powercut.Read(disk)
		if err != nil {
			t.Fatal(err)
		}
		name, err := filepath.Rel(disk, x.begun(disk))
		if err != nil {
			t.Fatal(err)
		}
		for how, part := range leftovers {
			disk := t.TempDir()
			if err := left.Write(disk); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Dir(filepath.Join(disk, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if b := part(rand.New(rand.NewPCG(uint64(after), 1)), bytes.Clone(begun)); b != nil {
				err = os.WriteFile(filepath.Join(disk, name), b, 0o644)
			} else if err = os.Remove(filepath.Join(disk, name)); errors.Is(err, os.ErrNotExist) {
				err = nil
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("cut after %d answers, of the file there is %s", after, how)
			x.goesOn(t, disk, a.id)
		}
	}
	if len(seen) < 3 {
		t.Errorf("the cuts left %v blocks missing: too few different ones", seen)
	}
}

// The same at each fsync, rename and removal, with every disk that may result.
func TestPowerCutOfBlocks(t *testing.T) {
	a, b := spots(t, 3, 80<<10)
	x, _ := interruptible(t, a, b)
	for _, firmware := range []string{"uefi", "bios"} {
		t.Run(firmware, func(t *testing.T) {
			t.Parallel()
			operation{name: "upgrade by blocks", after: []string{b.id, a.id},
				prepare: func(*Machine) (string, error) { return a.id, nil },
				do: func(ctx context.Context, m *Machine) error {
					_, err := m.Upgrade(ctx, UpgradeOptions{Source: x.src})
					return err
				}}.cut(t, firmware, a)
		})
	}
}

// Variables that make a test's process the one that is killed.
const (
	killedDisk  = "KAIROS_TEST_KILLED_DISK"
	killedFrom  = "KAIROS_TEST_KILLED_FROM"
	killedImage = "KAIROS_TEST_KILLED_IMAGE"
)

// TestToBeKilled is the upgrade that TestKilled kills.
func TestToBeKilled(t *testing.T) {
	disk := os.Getenv(killedDisk)
	if disk == "" {
		return
	}
	m := fakeMachine(t, disk, "uefi", os.Getenv(killedFrom), t.TempDir(), nil)
	src := source.Ref{Kind: source.Registry, Name: os.Getenv(killedImage)}
	if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src}); err != nil {
		t.Fatal(err)
	}
}

// A process that is killed while it fetches, by a signal that nobody can catch: what it has written counts.
func TestKilled(t *testing.T) {
	const changes = 12
	a, b := spots(t, changes, apart)
	x, before := interruptible(t, a, b)
	for _, after := range []int64{1, changes / 2, changes - 1} {
		disk := t.TempDir()
		if err := before.Write(disk); err != nil {
			t.Fatal(err)
		}
		var asked atomic.Int64
		reached, gone := make(chan struct{}), make(chan struct{})
		x.reg.reset(func(_ http.ResponseWriter, r *http.Request, _ *httptest.ResponseRecorder) bool {
			if !strings.Contains(r.URL.Path, x.digest) {
				return false
			}
			switch n := asked.Add(1); {
			case n == after+1:
				close(reached)
				fallthrough
			case n > after: // it waits for these when it is killed
				<-gone
				panic(http.ErrAbortHandler)
			}
			return false
		})
		c := exec.Command(os.Args[0], "-test.run=^TestToBeKilled$", "-test.timeout=5m")
		c.Env = append(os.Environ(), killedDisk+"="+disk, killedFrom+"="+a.id, killedImage+"="+x.src.Name)
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Wait() }()
		select {
		case <-reached:
		case err := <-ended:
			t.Fatalf("it ended before it was killed: %v\n%s", err, &out)
		}
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err == nil {
			t.Fatal("it was done before it was killed")
		}
		close(gone)
		x.goesOn(t, disk, a.id)
	}
}
