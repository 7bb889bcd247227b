package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/imagevm"
)

const (
	randomReads = 400     // of 4 KiB, each at another place
	randomFrom  = 1 << 20 // files of at least so many bytes
)

// reads measures all images, one after the other, several times. Each measurement begins
// with a fresh mount and empty caches.
func reads(disk *os.File, job imagevm.Job) error {
	for range job.Rounds {
		for _, r := range job.Reads {
			for _, kind := range []struct {
				name string
				do   func() (int64, int, error)
			}{{"walk", walk}, {"sequential", sequential}, {"random", random}} {
				seconds, bytes, count, err := measure(disk, r, kind.do)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", r.Name, kind.name, err)
				}
				report(imagevm.Result{Name: r.Name, Kind: kind.name, Seconds: seconds, Bytes: bytes, Count: count})
			}
		}
	}
	return nil
}

func measure(
	disk *os.File,
	r imagevm.Read,
	do func() (int64, int, error),
) (seconds float64, bytes int64, count int, err error) {
	loop, err := attach(disk, r.Image)
	if err != nil {
		return 0, 0, 0, err
	}
	defer loop.Close()
	device, remove, err := openVerity("image", loop.Name(), r)
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if err := mountImage(device, r.FSType); err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, unix.Unmount(mountPoint, 0)) }()
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return 0, 0, 0, err
	}
	start := time.Now()
	bytes, count, err = do()
	return time.Since(start).Seconds(), bytes, count, err
}

// walk reads all metadata.
func walk() (bytes int64, count int, err error) {
	err = filepath.WalkDir(mountPoint, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		count++
		_, err = d.Info()
		return err
	})
	return 0, count, err
}

// sequential reads all files from end to end.
func sequential() (bytes int64, count int, err error) {
	buf := make([]byte, 1<<20)
	err = filepath.WalkDir(mountPoint, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		count++
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf)
		bytes += n
		return err
	})
	return bytes, count, err
}

// random reads a few bytes here and there.
func random() (bytes int64, count int, err error) {
	var paths []string
	var sizes []int64
	err = filepath.WalkDir(mountPoint, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if i, err := d.Info(); err == nil && i.Size() >= randomFrom {
			paths, sizes = append(paths, path), append(sizes, i.Size())
		}
		return nil
	})
	if err != nil || len(paths) == 0 {
		return 0, 0, err
	}
	r := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 4096)
	for range randomReads {
		i := r.IntN(len(paths))
		f, err := os.Open(paths[i])
		if err != nil {
			return bytes, count, err
		}
		n, err := f.ReadAt(buf, r.Int64N(sizes[i]/4096)*4096)
		f.Close()
		if err != nil {
			return bytes, count, err
		}
		bytes, count = bytes+int64(n), count+1
	}
	return bytes, count, nil
}
