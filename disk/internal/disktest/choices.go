package disktest

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

	"github.com/kairos-buildkit/kairos/disk/filetree"
)

// Choices are the decisions of a generator: the bytes of a fuzz test's input, and what follows from them where there
// are no more. So each input is a medium, and `go test` tries those of a few inputs.
type Choices struct {
	input []byte
	rest  *rand.Rand
}

// NewChoices are those that an input stands for.
func NewChoices(input []byte) *Choices {
	return &Choices{input, rand.New(rand.NewChaCha8(sha256.Sum256(input)))}
}

// N returns a number from 0 to limit-1.
func (c *Choices) N(limit int64) int64 {
	if len(c.input) >= 2 {
		v := int64(binary.LittleEndian.Uint16(c.input))
		if c.input = c.input[2:]; limit <= 1<<16 {
			return v % limit
		}
		return (v<<32 | int64(c.rest.Uint32())) % limit
	}
	return c.rest.Int64N(limit)
}

// Bool is yes or no.
func (c *Choices) Bool() bool { return c.N(2) == 1 }

// Pick returns one of them.
func Pick[T any](c *Choices, of ...T) T { return of[c.N(int64(len(of)))] }

// AddSeeds gives a fuzz test the inputs that every run of the tests tries.
func AddSeeds(f *testing.F, n int) {
	f.Add([]byte{})
	for i := range n {
		sum := sha256.Sum256(fmt.Append(nil, i))
		f.Add(sum[:4+i%28])
	}
}

// Size is the size of a file in bytes: often one at which something begins.
func (c *Choices) Size() int64 {
	edge := Pick[int64](c, 0, 0, 1, 512, 2048, 4096, 8192, 65536)
	switch c.N(5) {
	case 0:
		return c.N(200_000)
	case 1:
		return edge + 1
	case 2:
		return max(0, edge-1)
	}
	return edge
}

// Names are the characters of names that every file system takes, and that all programs read alike.
const Names = "abcxyzABCXYZ0123456789-_+.~ "

// Files is a tree: names of these characters, of at most so many bytes, in folders that are at most so deep. No two
// names in a folder differ in case only, if fold.
func (c *Choices) Files(alphabet string, longest, deepest int, fold bool) []filetree.File {
	dirs := []string{"."}
	seen := map[string]bool{".": true}
	all := []rune(alphabet)
	var files []filetree.File
	count := c.N(20)
	if c.N(8) == 0 {
		count = 300 // a folder of more than a block
	}
	for range count {
		var name strings.Builder
		for want := 1 + c.N(Pick(c, int64(longest), 12, 30)); int64(name.Len()) < want; {
			name.WriteRune(all[c.N(int64(len(all)))])
		}
		base := name.String()
		if n := len(files); n > 0 && c.N(3) == 0 {
			base = path.Base(files[n-1].Path) + Pick(c, "x", "X", ".x", "_", base) // where short names are alike
		}
		if len(base) > longest || base == "." || base == ".." || strings.Trim(base, ". ") != base {
			continue
		}
		full := path.Join(dirs[c.N(int64(len(dirs)))], base)
		key := full
		if fold {
			key = strings.ToLower(strings.ToUpper(full))
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		f := filetree.Bytes(full, Content(full, int(c.Size())))
		f.Mode = Pick[fs.FileMode](c, 0, 0o600, 0o755, 0o444)
		if c.N(4) == 0 {
			f = filetree.File{Path: full, Mode: fs.ModeDir | Pick[fs.FileMode](c, 0, 0o700, 0o755)}
			if strings.Count(full, "/") < deepest-1 {
				dirs = append(dirs, full)
			}
		}
		files = append(files, f)
	}
	return files
}

// SameTree checks that a folder holds these files, with the folders above them, and nothing else but extra.
func SameTree(t *testing.T, dir string, files []filetree.File, extra ...string) {
	t.Helper()
	want := map[string]*filetree.File{".": nil}
	for _, name := range extra {
		want[name] = nil
	}
	for _, f := range files {
		for d := path.Dir(f.Path); d != "."; d = path.Dir(d) {
			if want[d] == nil {
				want[d] = &filetree.File{Mode: fs.ModeDir}
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
			if err != nil || !bytes.Equal(got, Content(f.Path, int(f.Size))) {
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

// Removable is a folder that is removed at the end, whatever modes an extraction gave to what is in it.
func Removable(t *testing.T) string {
	dir := t.TempDir()
	t.Cleanup(func() { exec.Command("chmod", "-R", "u+rwX", dir).Run() })
	return dir
}
