package erofs_test

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/erofs/erofstest"
)

var update = flag.Bool("update", false, "rewrite the golden digests; bump erofs.FormatVersion with them")

// fsck is Debian trixie's fsck.erofs, which `make tools` fetches.
func fsck(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs("../build/tools/fsck.erofs")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run `make tools`", err)
	}
	return path
}

// The digests pin the output: what changes it needs another FormatVersion, since caches
// and nodes take images with the same one for interchangeable.
func TestGoldenImages(t *testing.T) {
	tool := fsck(t)
	golden := filepath.Join("testdata", fmt.Sprintf("golden-v%d.txt", erofs.FormatVersion))
	var got strings.Builder
	for _, l := range erofstest.Layers() {
		archive := layerBytes(t, l)
		for _, o := range options {
			if o.Level != 0 && l.Name != "sizes" || l.Large && o.Compression == erofs.LZ4 {
				continue
			}
			b := convert(t, bytes.NewReader(archive), o)
			fmt.Fprintf(&got, "%x %d %s %s\n", sha256.Sum256(b), len(b), l.Name, optionName(o))
			if o.Level != 0 {
				continue
			}
			path := filepath.Join(t.TempDir(), "image.erofs")
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			// Without --extract it reads no content.
			args := []string{"--extract", path}
			if l.Large {
				args = args[1:]
			}
			if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
				t.Errorf("%s %s: fsck.erofs: %v\n%s", l.Name, optionName(o), err, out)
			}
		}
	}
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got.String()); d != "" {
		t.Errorf("-golden +made\n%s", d)
	}
}

// The checker does find what is wrong: else TestGoldenImages would say nothing.
func TestFsckFindsDamage(t *testing.T) {
	tool := fsck(t)
	for _, l := range erofstest.Layers() {
		if l.Name != "sizes" {
			continue
		}
		b := convert(t, bytes.NewReader(layerBytes(t, l)), erofs.Options{Compression: erofs.Zstd})
		for name, at := range map[string][]int{
			"superblock": {1024 + 36},
			"content":    every(2*4096-100, len(b)/2),
			"metadata":   {len(b) - 4096 + 20},
		} {
			broken := bytes.Clone(b)
			for _, at := range at {
				for i := range 64 {
					broken[at+i] ^= 0x5a
				}
			}
			path := filepath.Join(t.TempDir(), "image.erofs")
			if err := os.WriteFile(path, broken, 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(tool, "--extract", path).CombinedOutput(); err == nil {
				t.Errorf("%s damaged, accepted by fsck.erofs: %s", name, out)
			}
		}
	}
}

// every returns a place in each block up to an end.
func every(first, end int) (places []int) {
	for at := first; at < end; at += 4096 {
		places = append(places, at)
	}
	return places
}

// What fsck.erofs, which is not ours, reads from an image is what the archive has. Owners,
// devices and attributes take root; the kernel's mount is compared in test/erofs.
func TestFsckExtractsTheSame(t *testing.T) {
	tool := fsck(t)
	for _, l := range erofstest.Layers() {
		// Not "sparse": it leaves a hole at the end of a file out.
		if l.Name != "sizes" && l.Name != "links" {
			continue
		}
		archive := layerBytes(t, l)
		for _, o := range []erofs.Options{
			{},
			{Compression: erofs.LZ4},
			{Compression: erofs.Zstd},
			{Compression: erofs.Zstd, Level: 15},
		} {
			b := convert(t, bytes.NewReader(archive), o)
			dir := t.TempDir()
			path := filepath.Join(dir, "image.erofs")
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(tool, "--extract="+dir+"/tree", "--no-preserve", path).CombinedOutput()
			if err != nil {
				t.Fatalf("%s %s: fsck.erofs: %v\n%s", l.Name, optionName(o), err, out)
			}
			files, err := erofstest.WalkDir(dir + "/tree")
			if err != nil {
				t.Fatal(err)
			}
			f, err := erofs.Open(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			want, err := erofstest.Walk(f)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(contents(want), contents(files)); d != "" {
				t.Errorf("%s %s: -image +extracted\n%s", l.Name, optionName(o), d)
			}
		}
	}
}

func contents(files []erofstest.File) map[string]string {
	m := map[string]string{}
	for _, f := range files {
		if f.Name == "zeros" { // nor does it make a file of a hole
			continue
		}
		m[f.Name] = fmt.Sprintf("%o %d %s %s", f.Mode&0o170000, f.Size, f.Sum, f.Link)
	}
	return m
}
