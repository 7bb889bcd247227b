//go:build registry

package node

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/internal/distribution"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
)

// startDistribution runs the CNCF's registry with more lines of configuration, and returns its address and what it has
// logged of GET requests so far: their number, and the bytes of the answers.
func startDistribution(t *testing.T, more string) (addr string, logged func() (requests int, bytes int64)) {
	t.Helper()
	r, err := distribution.Start(t.Context(), filepath.Join("..", distribution.Program), t.TempDir(), more)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return r.Addr, func() (requests int, bytes int64) {
		answers, err := r.Answers()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range answers {
			bytes += a.Bytes
		}
		return len(answers), bytes
	}
}

// system are the files of a layer of 166 MB, text of words that compress to a third.
func system() (files map[string]string, text func(int) string) {
	r := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 3000)
	for i := range words {
		words[i] = fmt.Sprintf("%x ", r.Uint64()>>r.IntN(40))
	}
	text = func(size int) string {
		var b strings.Builder
		for b.Len() < size {
			b.WriteString(words[r.IntN(len(words))])
		}
		return b.String()[:size]
	}
	files = map[string]string{}
	for i, total := 0, 0; total < 166<<20; i++ {
		size := 1 + int(r.ExpFloat64()*20000)
		if i%100 == 0 {
			size += 1 << 20
		}
		files[fmt.Sprintf("usr/lib/d%02d/f%05d", i%40, i)] = text(size)
		total += size
	}
	return files, text
}

// What an upgrade fetches from a registry of another project, as that says itself: a version alone costs less than
// 100 KB, a file in a layer of 166 MB less than 2 MB, and 112 files with 21 MB at most 15 % of the layer's gzip. No
// change costs the manifests.
func TestDistribution(t *testing.T) {
	addr, logged := startDistribution(t, "")
	files, text := system()
	layer := func(change map[string]string) []byte {
		all := map[string]string{}
		for name, content := range files {
			all[name] = content
		}
		for name, content := range change {
			all[name] = content
		}
		return tarOf(t, all)
	}
	packages, changed := map[string]string{}, 0
	for i := range 112 { // 19 large ones, and 93 beside one another, as those of a package are
		n := i*100 + 100
		if i >= 19 {
			n = i*40 + 3
		}
		name := fmt.Sprintf("usr/lib/d%02d/f%05d", n%40, n)
		packages[name] = files[name][:100] + "inserted" + files[name][100:]
		changed += len(files[name])
	}
	if changed < 21_000_000 {
		t.Fatalf("only %d bytes in changed files", changed)
	}
	boot := bootLayer(t, "loader 1")
	base := layer(nil)
	img := func(layer []byte, version string) testImage {
		facts := tarOf(t, map[string]string{layout.ImageRelease: "KAIROS_VERSION=" + version + "\n"})
		return newImageIn(t, "zstd", runtime.GOARCH, layer, boot, facts)
	}
	a := img(base, "v1")
	for _, c := range []struct {
		name  string
		layer []byte
		bytes int64   // at most, where this is not 0
		part  float64 // of the layer's gzip, at most
	}{
		{name: "version", layer: base, bytes: 100_000},
		{name: "file", layer: layer(map[string]string{"usr/lib/d01/f00001": text(30_000)}), bytes: 2_000_000},
		{name: "packages", layer: layer(packages), part: 0.15},
	} {
		t.Run(c.name, func(t *testing.T) {
			next := img(c.layer, "v2")
			first := install(t, t.TempDir(), "uefi", t.TempDir(), a)
			_, made, art := beside(t, first, next)
			src := source.Ref{Kind: source.Registry, Name: addr + "/os:" + c.name}
			copyTo(t, made, src)
			opened, err := source.Open(t.Context(), src, source.Options{})
			if err != nil {
				t.Fatal(err)
			}
			most := c.bytes + int64(c.part*float64(opened.Layers[0].Stored))
			m := install(t, t.TempDir(), "uefi", t.TempDir(), a)
			_, before := logged()
			r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src})
			if err != nil {
				t.Fatal(err)
			}
			requests, after := logged()
			got := after - before
			t.Logf("%d bytes of at most %d, layer %d bytes of gzip, %+v",
				got, most, opened.Layers[0].Stored, r.Transfer)
			if got > most || r.Ranges == 0 || got < r.Fetched || got > r.Fetched+64<<10 {
				t.Errorf("the registry gave %d bytes, at most %d may be, and %+v", got, most, r.Transfer)
			}
			sameStore(t, first.State, m.State, art.Release)
			if r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src}); err != nil || r.Changed {
				t.Errorf("%+v, %v", r, err)
			}
			again, end := logged()
			t.Logf("no change: %d bytes in %d requests", end-after, again-requests)
			if end-after > 16<<10 {
				t.Errorf("no change cost %d bytes", end-after)
			}
		})
	}
}

// copyTo copies an image with its release.
func copyTo(t *testing.T, from, to source.Ref) {
	t.Helper()
	found, err := source.Find(t.Context(), from, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	target, err := source.Create(t.Context(), to, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = release.Copy(t.Context(), found, found.Roots[0], target, release.CopyOptions{})
	if err := target.Finish(err); err != nil {
		t.Fatal(err)
	}
}

// Through a mirror of the same project: the first node is given whole blobs, with which they are there, and later
// ones fetch blocks, of which the registry behind the mirror gives none. The mirror does not keep what it is asked
// for while an answer to somebody else is not over: to the first node's request for a tree, say. Then the next node
// is like the first one.
func TestDistributionPullThrough(t *testing.T) {
	addr, logged := startDistribution(t, "")
	mirror, mirrored := startDistribution(t, "proxy: {remoteurl: \"http://"+addr+"\"}\n")
	a, b := largeChange(t)
	first := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	_, made, art := beside(t, first, b)
	copyTo(t, made, source.Ref{Kind: source.Registry, Name: addr + "/os:v2"})
	src := source.Ref{Kind: source.Registry, Name: mirror + "/os:v2"}
	const nodes = 10
	for i := range nodes {
		_, before := logged()
		_, beforeMirror := mirrored()
		m := install(t, t.TempDir(), "uefi", t.TempDir(), a)
		r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src})
		if err != nil {
			t.Fatal(err)
		}
		sameStore(t, first.State, m.State, art.Release)
		_, after := logged()
		_, afterMirror := mirrored()
		got, gotMirror := after-before, afterMirror-beforeMirror
		t.Logf("node %d: %+v, %d bytes of the mirror, %d of the registry", i+1, r.Transfer, gotMirror, got)
		whole := art.Blobs[0].Size
		if r.Reused == 0 && r.Fetched >= whole {
			continue
		}
		if i == 0 || r.Fetched > whole/2 || got > 64<<10 {
			t.Errorf("node %d: %+v, %d bytes of the registry", i+1, r.Transfer, got)
		}
		return
	}
	t.Errorf("%d nodes were given whole blobs", nodes)
}
