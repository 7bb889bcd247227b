package fat

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// memory is a disk in memory.
type memory []byte

func (m memory) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 || at >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(p, m[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m memory) WriteAt(p []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(p)) > int64(len(m)) {
		return 0, io.ErrShortWrite
	}
	return copy(m[at:], p), nil
}

// FuzzVolume makes changes to a volume, one for each byte of changes. A whole one is whole afterwards, and has the
// files that it has to have; a damaged one, of three bytes for each damage, is an error and no more.
func FuzzVolume(f *testing.F) {
	const dir = "EFI/Linux/"
	files := map[string]string{"EFI/BOOT/BOOTX64.EFI": strings.Repeat("loader", 700)}
	var entries []layout.Entry
	for i, id := range []string{idA, idB, "cccccccccccc"} {
		e := bootEntry(uint32(i), id, 3)
		entries = append(entries, e)
		files[dir+e.String()] = strings.Repeat(id, 500*(i+1))
	}
	img := filepath.Join(f.TempDir(), "made")
	if err := os.WriteFile(img, make([]byte, 4<<20), 0o600); err != nil {
		f.Fatal(err)
	}
	tool(f, "mkfs.fat", "-F", "16", "-s", "1", img)
	tool(f, "mmd", "-i", img, "::EFI", "::EFI/Linux", "::EFI/BOOT")
	for name, content := range files {
		from := filepath.Join(f.TempDir(), "f")
		if err := os.WriteFile(from, []byte(content), 0o600); err != nil {
			f.Fatal(err)
		}
		tool(f, "mcopy", "-i", img, from, "::"+name)
	}
	image, err := os.ReadFile(img)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, []byte{})
	f.Add([]byte{11, 7, 3, 11, 2, 6, 11}, []byte{})
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, []byte{2, 0, 0, 40, 0, 7, 90, 9, 1})
	// What other readers of FAT go round in until memory is gone: a chain that meets itself, at its beginning and
	// later, and a folder that is in itself.
	table := int(le.Uint16(image[14:])) * 512
	point := func(at int, to byte) []byte { return []byte{byte(at), byte(at >> 8), image[at] ^ to} }
	folder := bytes.Index(image, []byte("LINUX      "))
	if folder < 0 {
		f.Fatal("the volume has no folder LINUX")
	}
	f.Add([]byte{2, 11}, point(table+2*2, 2))
	f.Add([]byte{0, 4, 8}, append(point(table+2*5, 6), point(table+2*6, 5)...))
	f.Add([]byte{7, 11}, point(folder+26, 2))
	f.Fuzz(func(t *testing.T, changes, damage []byte) {
		disk := memory(append([]byte(nil), image...))
		// The boot sector, the FATs and the folders are in the first 64 KiB.
		for d := damage; len(d) >= 3; d = d[3:] {
			disk[int(d[0])|int(d[1])<<8] ^= d[2]
		}
		v, err := Open(disk)
		if err != nil {
			return
		}
		have := map[string]string{}
		for name, content := range files {
			have[name] = content
		}
		names := []string{entries[0].String(), entries[1].String(), entries[2].String()}
		for _, c := range changes[:min(len(changes), 16)] {
			i, other := int(c)%3, (int(c)+1)%3
			a, b := names[i], names[other]
			switch c / 3 % 4 {
			case 0:
				to := bootEntry(entries[i].Seq, entries[i].ID, c/12%3).String()
				if err := v.Rename("EFI/Linux", a, to); err == nil && to != a {
					have[dir+to], names[i] = have[dir+a], to
					delete(have, dir+a)
				}
			case 1:
				if err := v.Exchange("EFI/Linux", a, b); err == nil {
					have[dir+a], have[dir+b] = have[dir+b], have[dir+a]
				}
			case 2:
				if err := v.Remove("EFI/Linux", a); err == nil {
					delete(have, dir+a)
				}
			case 3:
				_, _ = v.Reclaim()
			}
		}
		left := 16 << 20
		err = fs.WalkDir(v.FS(), ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				if left -= 4096; left < 0 {
					return fs.SkipAll
				}
				return nil
			}
			content, err := fs.ReadFile(v.FS(), name)
			if left -= len(content); left < 0 {
				return fs.SkipAll
			}
			if want, ok := have[name]; len(damage) < 3 && (err != nil || !ok || string(content) != want) {
				t.Errorf("%s has %d bytes (%v), want %d", path.Base(name), len(content), err, len(want))
			}
			delete(have, name)
			return nil
		})
		if len(damage) >= 3 {
			return
		}
		if err != nil || len(have) > 0 {
			t.Errorf("%d files are missing (%v)", len(have), err)
		}
		if _, err := v.Reclaim(); err != nil {
			t.Fatal(err)
		}
		img := filepath.Join(t.TempDir(), "changed")
		if err := os.WriteFile(img, disk, 0o600); err != nil {
			t.Fatal(err)
		}
		tool(t, "fsck.fat", "-n", img)
	})
}
