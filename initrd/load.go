package initrd

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/kairos-buildkit/kairos/initrd/kmod"
	"github.com/kairos-buildkit/kairos/internal/bounded"
)

// Load loads a module, or what an alias stands for, from a kernel's module folder, after all that it depends on:
// insert gets their bytes as the kernel takes them. What is built into the kernel takes nothing. A soft dependency may
// fail; the error is the module's own.
func Load(modules fs.FS, name string, insert func(name string, plain []byte) error) error {
	fail := func(err error) error { return fmt.Errorf("load module %s: %w", name, err) }
	t, err := readTables(modules)
	if err != nil {
		return fail(err)
	}
	wanted := []string{kmod.Name(name)}
	if !t.has(wanted[0]) {
		wanted = nil
		for _, a := range t.aliases {
			if kmod.Glob(a.Pattern, name) {
				wanted = append(wanted, a.Module)
			}
		}
	}
	if len(wanted) == 0 {
		return fail(errors.New("the kernel has no such module"))
	}
	for _, w := range wanted {
		if t.builtin[w] {
			continue
		}
		for _, dep := range t.before(w) {
			_ = load(modules, t.path[dep], dep, insert) // without a hard one the module itself will not load
		}
		if err := load(modules, t.path[w], w, insert); err != nil {
			return fail(err)
		}
	}
	return nil
}

func load(modules fs.FS, file, name string, insert func(string, []byte) error) error {
	packed, err := bounded.ReadFile(modules, file, maxModule)
	if err != nil {
		return err
	}
	plain, err := decompress(file, packed)
	if err != nil {
		return err
	}
	return insert(name, plain)
}
