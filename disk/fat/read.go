package fat

import (
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/kairos-buildkit/kairos/disk/internal/readfs"
)

// maxFolder is the most dirents that a folder has, by the specification.
const maxFolder = 1 << 16

// maxPath is the most characters of a path, by the specification: a folder that is in itself has an end.
const maxPath = 260

// FS returns the volume's files. They are read as they are at that moment.
func (d *Volume) FS() fs.FS {
	return readfs.New(func(dir string) ([]readfs.Entry, error) {
		cluster, err := d.dir(dir)
		if err != nil {
			return nil, err
		}
		names, err := d.list(cluster)
		if err != nil {
			return nil, err
		}
		var all []readfs.Entry
		for _, n := range names {
			if n.name == "." || n.name == ".." {
				continue
			}
			dirent := parseDirent(n.raw)
			e := readfs.Entry{Name: n.name, Mode: 0o755, Time: dirent.Time}
			if dirent.Attr&attrDir != 0 {
				e.Mode |= fs.ModeDir
			} else {
				e.Size = int64(dirent.Size)
				e.Open = func() (io.ReaderAt, error) { return d.content(n, e.Size) }
			}
			all = append(all, e)
		}
		return all, nil
	})
}

// Label returns the volume's label, of its root folder.
func (d *Volume) Label() (label string, err error) {
	err = d.walk(0, func(_ int64, b []byte) (bool, error) {
		if b[0] != deleted && b[11]&0x3f != attrLong && b[11]&attrVolume != 0 {
			label = strings.TrimRight(string(b[:11]), " ")
			return false, nil
		}
		return true, nil
	})
	return label, err
}

// chain is a file's content: runs of clusters that follow each other on the disk.
type chain struct {
	r     io.ReaderAt
	parts []part
}

// part is one run, in bytes: where it is in the file and on the disk.
type part struct{ in, at, size int64 }

// content follows a file's chain, which has to have the clusters that the file's size takes.
func (d *Volume) content(e entry, size int64) (io.ReaderAt, error) {
	f := &chain{r: d.rw}
	c := e.first()
	for done := int64(0); done < size; done += d.cluster {
		if c < firstCluster || c >= d.clusters+firstCluster {
			return nil, fmt.Errorf("FAT: %s: the chain ends after %d of %d bytes", e.name, done, size)
		}
		at := d.data + int64(c-firstCluster)*d.cluster
		if i := len(f.parts) - 1; i >= 0 && f.parts[i].at+f.parts[i].size == at {
			f.parts[i].size += d.cluster
		} else {
			f.parts = append(f.parts, part{done, at, d.cluster})
		}
		// A chain that meets itself takes no longer than the volume has clusters: one cannot be larger.
		if done/d.cluster > int64(d.clusters) {
			return nil, fmt.Errorf("FAT: %s: the chain has a loop", e.name)
		}
		var err error
		if c, err = d.next(c); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (f *chain) ReadAt(b []byte, off int64) (n int, err error) {
	for _, p := range f.parts {
		if n == len(b) {
			break
		}
		if off < p.in || off >= p.in+p.size {
			continue
		}
		some := b[n:min(int64(len(b)), int64(n)+p.in+p.size-off)]
		m, err := f.r.ReadAt(some, p.at+off-p.in)
		n, off = n+m, off+int64(m)
		if m < len(some) {
			return n, err
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
