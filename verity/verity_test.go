package verity

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// memory is a file that grows.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(m.b) {
		m.b = append(m.b, make([]byte, need-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func random(blocks int) []byte {
	b := make([]byte, blocks*BlockSize)
	rand.NewChaCha8([32]byte{byte(blocks)}).Read(b)
	return b
}

// format writes data in runs of blocks that come in a random order.
func format(t testing.TB, data []byte, seed uint64) (whole []byte, root string) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 0))
	var runs [][2]int
	for at := 0; at < len(data); {
		n := min(len(data)-at, (1+rnd.IntN(40))*BlockSize)
		runs = append(runs, [2]int{at, at + n})
		at += n
	}
	rnd.Shuffle(len(runs), func(i, j int) { runs[i], runs[j] = runs[j], runs[i] })
	var m memory
	w := NewWriter(&m)
	for _, r := range runs {
		p := bytes.Clone(data[r[0]:r[1]])
		if _, err := w.WriteAt(p, int64(r[0])); err != nil {
			t.Fatal(err)
		}
		clear(p) // the writer must not look at it any more
	}
	root, total, err := w.Finish(int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if total != int64(len(m.b)) || total != TotalSize(int64(len(data))) {
		t.Errorf("total = %d, file has %d, TotalSize says %d", total, len(m.b), TotalSize(int64(len(data))))
	}
	return m.b, root
}

var sizes = []int{1, 2, 127, 128, 129, 128*128 - 1, 128 * 128, 128*128 + 1}

func TestBytesAreVeritysetups(t *testing.T) {
	for _, blocks := range sizes {
		t.Run(fmt.Sprint(blocks), func(t *testing.T) {
			data := random(blocks)
			got, root := format(t, data, 1)
			sb, err := ParseSuperblock(got[len(data):])
			if err != nil {
				t.Fatal(err)
			}
			u := hex.EncodeToString(sb.UUID[:])
			file := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("veritysetup", "format", file, file, fmt.Sprint("--hash-offset=", len(data)),
				fmt.Sprint("--data-blocks=", blocks), "--salt="+Salt,
				"--uuid="+strings.Join([]string{u[:8], u[8:12], u[12:16], u[16:20], u[20:]}, "-")).CombinedOutput()
			if err != nil {
				t.Fatalf("veritysetup (package cryptsetup-bin): %v\n%s", err, out)
			}
			if !strings.Contains(string(out), root) {
				t.Errorf("root hash %s, veritysetup says\n%s", root, out)
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			// veritysetup writes the 512 bytes of the superblock only.
			if len(want) < len(got) {
				want = append(want, make([]byte, len(got)-len(want))...)
			}
			if !bytes.Equal(got, want) {
				t.Error("bytes differ from veritysetup's")
			}
			if err := os.WriteFile(file, got, 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("veritysetup", "verify", file, file, root,
				fmt.Sprint("--hash-offset=", len(data))).CombinedOutput(); err != nil {
				t.Errorf("veritysetup verify: %v\n%s", err, out)
			}
		})
	}
}

func TestOrderDoesNotMatter(t *testing.T) {
	data := random(700)
	a, rootA := format(t, data, 1)
	b, rootB := format(t, data, 2)
	if rootA != rootB || !bytes.Equal(a, b) {
		t.Error("two orders of writing gave different bytes")
	}
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	for _, blocks := range []int{1, 2, 130} {
		data := random(blocks)
		whole, root := format(t, data, 3)
		size := int64(len(data))
		if err := Verify(bytes.NewReader(whole), size, root); err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(whole); at += 997 {
			if at >= len(data)+superblockSize && at < len(data)+BlockSize {
				continue // unused rest of the superblock's block
			}
			whole[at] ^= 0x10
			var corrupt *CorruptError
			err := Verify(bytes.NewReader(whole), size, root)
			sb := at >= len(data)+16 && at < len(data)+32 // the UUID is free
			if !sb && !errors.As(err, &corrupt) {
				t.Fatalf("%d blocks: flip at %d: %v", blocks, at, err)
			}
			if at < len(data) && (corrupt.What != "data" || corrupt.Block != int64(at/BlockSize)) {
				t.Errorf("flip in data block %d: %v", at/BlockSize, err)
			}
			if r, err := NewReader(bytes.NewReader(whole), size, root); err == nil {
				got := make([]byte, len(data))
				if n, err := r.ReadAt(got, 0); err == nil && !bytes.Equal(got, data) ||
					!bytes.Equal(got[:n], data[:n]) {
					t.Fatalf("flip at %d: wrong data read", at)
				}
			}
			whole[at] ^= 0x10
		}
		other := strings.Repeat("0", 64)
		if err := Verify(bytes.NewReader(whole), size, other); err == nil {
			t.Error("accepted under another root hash")
		}
		if err := Verify(bytes.NewReader(whole[:len(whole)-1]), size, root); err == nil {
			t.Error("accepted when truncated")
		}
	}
}

func TestReaderReadsAsFile(t *testing.T) {
	data := random(300)
	whole, root := format(t, data, 4)
	r, err := NewReader(bytes.NewReader(whole), int64(len(data)), root)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(5, 0))
	want := bytes.NewReader(data)
	for range 2000 {
		off, n := rnd.Int64N(int64(len(data))+100), rnd.IntN(3*BlockSize)
		a, b := make([]byte, n), make([]byte, n)
		na, ea := r.ReadAt(a, off)
		nb, eb := want.ReadAt(b, off)
		if n == 0 {
			continue
		}
		if na != nb || !errors.Is(ea, eb) || !bytes.Equal(a, b) {
			t.Fatalf("ReadAt(%d, %d) = %d, %v; want %d, %v", n, off, na, ea, nb, eb)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	block := make([]byte, BlockSize)
	for name, do := range map[string]func(w *Writer) error{
		"part of a block":  func(w *Writer) error { _, err := w.WriteAt(block[:100], 0); return err },
		"unaligned offset": func(w *Writer) error { _, err := w.WriteAt(block, 100); return err },
		"twice": func(w *Writer) error {
			w.WriteAt(block, 0)
			_, err := w.WriteAt(block, 0)
			return err
		},
		"hole": func(w *Writer) error {
			w.WriteAt(block, 0)
			w.WriteAt(block, 2*BlockSize)
			_, _, err := w.Finish(3 * BlockSize)
			return err
		},
		"missing end": func(w *Writer) error {
			w.WriteAt(block,
				0)
			_, _, err := w.Finish(300 * BlockSize)
			return err
		},
		"beyond end": func(w *Writer) error {
			w.WriteAt(block, 0)
			w.WriteAt(block, BlockSize)
			_, _, err := w.Finish(BlockSize)
			return err
		},
		"nothing":  func(w *Writer) error { _, _, err := w.Finish(0); return err },
		"odd size": func(w *Writer) error { w.WriteAt(block, 0); _, _, err := w.Finish(100); return err },
	} {
		if do(NewWriter(&memory{})) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	full := errors.New("full")
	if _, err := NewWriter(failing{full}).WriteAt(block, 0); !errors.Is(err, full) {
		t.Errorf("error of the file: %v", err)
	}
}

type failing struct{ err error }

func (f failing) WriteAt([]byte, int64) (int, error) { return 0, f.err }

func FuzzParseSuperblock(f *testing.F) {
	f.Add(Superblock{UUID: [16]byte{1}, DataBlocks: 7}.Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSuperblock(b)
		if err == nil && !bytes.Equal(s.Marshal(), b[:superblockSize]) {
			t.Errorf("%x parses, but formats as %x", b, s.Marshal())
		}
	})
}

func BenchmarkWriter(b *testing.B) {
	data := random(64 << 20 / BlockSize)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		w := NewWriter(discard{})
		for at := 0; at < len(data); at += 1 << 20 {
			if _, err := w.WriteAt(data[at:at+1<<20], int64(at)); err != nil {
				b.Fatal(err)
			}
		}
		if _, _, err := w.Finish(int64(len(data))); err != nil {
			b.Fatal(err)
		}
	}
}

var _ io.ReaderAt = (*Reader)(nil)
