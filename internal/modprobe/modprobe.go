// Package modprobe loads modules of the running kernel, in images that have no program for it. Where they have one,
// the kernel itself calls it, and this finds that there is nothing left to do.
package modprobe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/initrd"
)

// Load loads modules by their names, each after what it depends on.
func Load(names ...string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("load modules: %w", err)
	}
	modules := os.DirFS(filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:])))
	return load(modules, insert, names)
}

func load(modules fs.FS, insert func(string, []byte) error, names []string) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, initrd.Load(modules, name, insert))
	}
	return errors.Join(errs...)
}

// insert gives a module to the kernel. One that is there already is as good.
func insert(_ string, plain []byte) error {
	if err := unix.InitModule(plain, ""); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
