package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// choices are the decisions of a generator: the bytes of a fuzz test's input, and what follows from them where there
// are no more. So each input is a medium, and `go test` tries those of a few inputs.
type choices struct {
	input []byte
	rest  *rand.Rand
}

func newChoices(input []byte) *choices {
	return &choices{input, rand.New(rand.NewChaCha8(sha256.Sum256(input)))}
}

// n returns a number from 0 to limit-1.
func (c *choices) n(limit int64) int64 {
	if len(c.input) >= 2 {
		v := int64(binary.LittleEndian.Uint16(c.input))
		if c.input = c.input[2:]; limit <= 1<<16 {
			return v % limit
		}
		return (v<<32 | int64(c.rest.Uint32())) % limit
	}
	return c.rest.Int64N(limit)
}

func (c *choices) bool() bool { return c.n(2) == 1 }

// pick returns one of them.
func pick[T any](c *choices, of ...T) T { return of[c.n(int64(len(of)))] }

// addSeeds gives a fuzz test the inputs that every run of the tests tries.
func addSeeds(f *testing.F, n int) {
	f.Add([]byte{})
	for i := range n {
		sum := sha256.Sum256(fmt.Append(nil, i))
		f.Add(sum[:4+i%28])
	}
}

// size is the size of a file in bytes: often one at which something begins.
func (c *choices) size() int64 {
	edge := pick[int64](c, 0, 0, 1, 512, 2048, 4096, 8192, 65536)
	switch c.n(5) {
	case 0:
		return c.n(200_000)
	case 1:
		return edge + 1
	case 2:
		return max(0, edge-1)
	}
	return edge
}

// files is a tree: names of these characters, of at most so many bytes, in folders that are at most so deep. No two
// names in a folder differ in case only, if fold.
func (c *choices) files(alphabet string, longest, deepest int, fold bool) []File {
	dirs := []string{"."}
	seen := map[string]bool{".": true}
	all := []rune(alphabet)
	var files []File
	count := c.n(20)
	if c.n(8) == 0 {
		count = 300 // a folder of more than a block
	}
	for range count {
		var name strings.Builder
		for want := 1 + c.n(pick(c, int64(longest), 12, 30)); int64(name.Len()) < want; {
			name.WriteRune(all[c.n(int64(len(all)))])
		}
		base := name.String()
		if n := len(files); n > 0 && c.n(3) == 0 {
			base = path.Base(files[n-1].Path) + pick(c, "x", "X", ".x", "_", base) // where short names are alike
		}
		if len(base) > longest || base == "." || base == ".." || strings.Trim(base, ". ") != base {
			continue
		}
		full := path.Join(dirs[c.n(int64(len(dirs)))], base)
		key := full
		if fold {
			key = strings.ToLower(strings.ToUpper(full))
		}
		if seen[key] || full == ext4LostFound {
			continue
		}
		seen[key] = true
		f := Bytes(full, content(full, int(c.size())))
		f.Mode = pick[fs.FileMode](c, 0, 0o600, 0o755, 0o444)
		if c.n(4) == 0 {
			f = File{Path: full, Mode: fs.ModeDir | pick[fs.FileMode](c, 0, 0o700, 0o755)}
			if strings.Count(full, "/") < deepest-1 {
				dirs = append(dirs, full)
			}
		}
		files = append(files, f)
	}
	return files
}

// sameTree checks that a folder holds these files, with the folders above them, and nothing else but extra.
func sameTree(t *testing.T, dir string, files []File, extra ...string) {
	t.Helper()
	want := map[string]*File{".": nil}
	for _, name := range extra {
		want[name] = nil
	}
	for _, f := range files {
		for d := path.Dir(f.Path); d != "."; d = path.Dir(d) {
			if want[d] == nil {
				want[d] = &File{Mode: fs.ModeDir}
			}
		}
		want[f.Path] = &f
	}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err = filepath.Rel(dir, name)
		f, ok := want[name]
		delete(want, name)
		switch {
		case err != nil:
			return err
		case !ok:
			t.Errorf("%q should not be there", name)
		case f != nil && f.Mode.IsDir() != d.IsDir():
			t.Errorf("%q: %v", name, d.Type())
		case f != nil && !d.IsDir():
			got, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || !bytes.Equal(got, content(f.Path, int(f.Size))) {
				t.Errorf("%q: %d bytes (%v), want %d", name, len(got), err, f.Size)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for name := range want {
		t.Errorf("%q is missing", name)
	}
}

// removable is a folder that is removed at the end, whatever modes an extraction gave to what is in it.
func removable(t *testing.T) string {
	dir := t.TempDir()
	t.Cleanup(func() { exec.Command("chmod", "-R", "u+rwX", dir).Run() })
	return dir
}
