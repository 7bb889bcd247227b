package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/filesystem/ext4"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"

	"github.com/kairos-buildkit/kairos/disk/internal/readfs"
)

// readISO reads an ISO 9660 volume with go-diskfs.
func readISO(r io.ReaderAt, size int64) (fs.FS, error) {
	b := make([]byte, sector)
	if err := readFull(r, b, 16*sector); err != nil {
		return nil, err
	}
	// The path table and the root folder are read as a whole, by the sizes that the volume states.
	if table, root := le.Uint32(b[132:]), le.Uint32(b[156+10:]); table > maxTable || root > maxTable {
		return nil, fmt.Errorf("a path table of %d bytes, a root folder of %d", table, root)
	}
	dev := &source{r: r, size: size, check: func(b []byte, off int64) error {
		// The size of a folder, in its own first record.
		if len(b) == 4 && off%sector == 10 && le.Uint32(b) > maxTable {
			return errHostile
		}
		return nil
	}}
	var volume *iso9660.FileSystem
	err := dev.guard(func() (err error) { volume, err = iso9660.Read(dev, size, 0, sector); return err })
	if err != nil {
		return nil, err
	}
	return readfs.New(func(dir string) (all []readfs.Entry, err error) {
		err = dev.guard(func() error {
			list, err := volume.ReadDir(dir)
			for _, d := range list {
				info, err := d.Info()
				if err != nil {
					return err
				}
				at, ok := info.Sys().(*iso9660.StatT)
				if !ok {
					return errors.New("an entry without a place")
				}
				e := readfs.Entry{Name: info.Name(), Size: info.Size(), Mode: info.Mode(), Time: info.ModTime()}
				if e.Mode.IsDir() && e.Size > maxTable {
					return errHostile
				}
				e.Open = contiguous(r, size, int64(at.Location)*sector, e.Size)
				// A file of 4 GiB or more has an entry for each of its extents, which follow each other.
				if i := len(all) - 1; i >= 0 && all[i].Name == e.Name && e.Mode.IsRegular() {
					first := all[i]
					end, want := int64(at.Location)*sector, first
					e.Size += first.Size
					e.Open = joined(want.Open, first.Size, contiguous(r, size, end, e.Size-first.Size))
					all[i] = e
					continue
				}
				all = append(all, e)
			}
			return err
		})
		return all, err
	}), nil
}

// contiguous is a file that is one run of bytes.
func contiguous(r io.ReaderAt, limit, at, size int64) func() (io.ReaderAt, error) {
	return func() (io.ReaderAt, error) {
		if at < 0 || size < 0 || at+size > limit {
			return nil, fmt.Errorf("%d bytes at %d exceed the volume", size, at)
		}
		return io.NewSectionReader(r, at, size), nil
	}
}

// joined is a file whose first size bytes are one, and the others another.
func joined(
	first func() (io.ReaderAt, error),
	size int64,
	second func() (io.ReaderAt, error),
) func() (io.ReaderAt, error) {
	return func() (io.ReaderAt, error) {
		a, err := first()
		if err != nil {
			return nil, err
		}
		b, err := second()
		if err != nil {
			return nil, err
		}
		return two{a, b, size}, nil
	}
}

type two struct {
	a, b io.ReaderAt
	size int64 // of a
}

func (t two) ReadAt(b []byte, off int64) (n int, err error) {
	if off < t.size {
		some := b[:min(int64(len(b)), t.size-off)]
		if n, err = t.a.ReadAt(some, off); n < len(some) {
			return n, err
		}
		if n == len(b) {
			return n, nil
		}
	}
	m, err := t.b.ReadAt(b[n:], off+int64(n)-t.size)
	return n + m, err
}

// readExt4 reads an ext4 file system with go-diskfs.
func readExt4(r io.ReaderAt, size int64) (fs.FS, error) {
	b := make([]byte, 1024)
	if err := readFull(r, b, 1024); err != nil {
		return nil, err
	}
	// What decides how much is read and how far is calculated.
	blocks, log := int64(le.Uint32(b[4:])), le.Uint32(b[24:])
	if le.Uint32(b[0x60:])&0x80 != 0 { // 64-bit
		blocks |= int64(le.Uint32(b[0x150:])) << 32
	}
	perGroup, inodes, inodeSize, descriptor := le.Uint32(
		b[32:],
	), le.Uint32(
		b[40:],
	), le.Uint16(
		b[88:],
	), le.Uint16(
		b[0xfe:],
	)
	if log > 6 || blocks <= 0 || blocks > size>>(10+log) || perGroup == 0 || perGroup > 8<<(10+log) ||
		inodes == 0 || inodes > 8<<(10+log) || inodeSize < 128 || int(inodeSize) > 1<<(10+log) || descriptor > 64 {
		return nil, errors.New("ext4: the superblock is damaged")
	}
	dev := &source{r: r, size: size}
	var volume *ext4.FileSystem
	if err := dev.guard(func() (err error) { volume, err = ext4.Read(dev, size, 0, 512); return err }); err != nil {
		return nil, err
	}
	return readfs.New(func(dir string) (all []readfs.Entry, err error) {
		err = dev.guard(func() error {
			list, err := volume.ReadDir(dir)
			for _, d := range list {
				info, err := d.Info()
				if err != nil {
					return err
				}
				name := info.Name()
				if dir != "." {
					name = dir + "/" + name
				}
				all = append(all, readfs.Entry{
					Name: info.Name(), Size: info.Size(), Mode: info.Mode(), Time: info.ModTime(),
					Open: func() (io.ReaderAt, error) { return openExt4(dev, volume, name, size) },
				})
			}
			return err
		})
		return all, err
	}), nil
}

// openExt4 opens a file, which go-diskfs reads from one position alone.
func openExt4(dev *source, volume *ext4.FileSystem, name string, limit int64) (io.ReaderAt, error) {
	f := &seekFile{dev: dev}
	err := dev.guard(func() (err error) {
		file, err := volume.OpenFile(name, os.O_RDONLY)
		if err != nil {
			return err
		}
		f.file = file
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// readAtOnce is the size of one read of a file, in bytes: large, for speed.
const readAtOnce = 1 << 20

type seekFile struct {
	dev  *source
	mu   sync.Mutex
	file io.ReadSeeker
}

func (f *seekFile) ReadAt(b []byte, off int64) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	guarded := f.dev.guard(func() error {
		if _, err = f.file.Seek(off, io.SeekStart); err != nil {
			return err
		}
		for n < len(b) {
			part := b[n:min(len(b), n+readAtOnce)]
			m, err := f.file.Read(part)
			n += m
			f.dev.used = 0 // content is not bounded
			if err != nil {
				return err
			}
			if m == 0 {
				return io.ErrNoProgress
			}
		}
		return nil
	})
	if n == len(b) {
		return n, nil
	}
	return n, guarded
}

// source is what go-diskfs reads from. One call may read so much and no more: it believes what a volume says about
// itself, and follows what goes in circles.
type source struct {
	r     io.ReaderAt
	size  int64
	check func(b []byte, off int64) error // of what was read, where there is one
	mu    sync.Mutex                      // one call at a time
	used  int64
	at    int64
}

const (
	maxTable  = 16 << 20 // bytes of a table that is read as a whole
	maxOneUse = 64 << 20 // bytes that one call may read
	perRead   = 4096     // what a read takes of them at least
)

// errHostile ends a call that reads too much.
var errHostile = errors.New("the file system is damaged: it goes in circles, or exceeds its volume")

// guard makes what go-diskfs makes of a damaged file system an error.
func (s *source) guard(do func() error) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used, s.at = 0, 0
	defer func() {
		switch p := recover().(type) {
		case nil:
		case error:
			err = fmt.Errorf("%w: %w", errHostile, p)
		default:
			err = fmt.Errorf("%w: %v", errHostile, p)
		}
	}()
	return do()
}

func (s *source) ReadAt(b []byte, off int64) (int, error) {
	if s.used += max(int64(len(b)), perRead); s.used > maxOneUse {
		panic(errHostile)
	}
	if off < 0 || off > s.size || int64(len(b)) > s.size-off {
		return 0, io.EOF // before b is touched, which may be larger than the machine's memory
	}
	n, err := s.r.ReadAt(b, off)
	if s.check != nil {
		if err := s.check(b[:n], off); err != nil {
			panic(err)
		}
	}
	return n, err
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.ReadAt(b, s.at)
	s.at += int64(n)
	return n, err
}

func (s *source) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += s.at
	case io.SeekEnd:
		off += s.size
	}
	s.at = off
	return off, nil
}

func (s *source) Stat() (fs.FileInfo, error)              { return nil, errors.ErrUnsupported }
func (s *source) Close() error                            { return nil }
func (s *source) Sys() (*os.File, error)                  { return nil, errors.ErrUnsupported }
func (s *source) Writable() (backend.WritableFile, error) { return nil, backend.ErrIncorrectOpenMode }
func (s *source) Path() string                            { return "" }
