package initrd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/initrd/kmod"
	"github.com/kairos-buildkit/kairos/internal/bounded"
)

// Selection is what an initrd takes of a kernel's modules.
type Selection struct {
	Index kmod.Index
	// Encrypts says that the kernel opens encrypted partitions with them.
	Encrypts bool
	// packed has the module files' bytes as the image has them, by name, and path their paths.
	// They are decompressed for an initrd only: who compares two selections does not wait for that.
	packed map[string][]byte
	path   map[string]string
	size   int64 // of all packed
}

// Select chooses the modules to boot with from a kernel's module folder (what is
// /lib/modules/<version>), with all that they depend on. extra names more modules to load at
// boot or when their hardware appears; unlike Kairos's own list, and optional, each of them has to exist.
//
// A kernel that cannot boot Kairos is an error that says what it lacks.
func Select(modules fs.FS, extra []string, optional ...string) (*Selection, error) {
	t, err := readTables(modules)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, r := range required {
		if !t.has(r.module) {
			missing = append(missing, fmt.Sprintf("%s (%s)", r.what, r.option))
		}
	}
	if missing != nil {
		if err := t.unlisted(modules, requiredModules()); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf(
			"the kernel has no %s: install a kernel that has it, built in or as a module",
			strings.Join(missing, ", no "),
		)
	}
	for _, name := range extra {
		if !t.has(kmod.Name(name)) {
			if err := t.unlisted(modules, []string{kmod.Name(name)}); err != nil {
				return nil, err
			}
			return nil, fmt.Errorf("the kernel has no module %s, which the image's label asks for", name)
		}
	}

	roots := requiredModules()
	for _, name := range slices.Concat(byName, drivers, extra, optional) {
		roots = append(roots, kmod.Name(name))
	}
	s := &Selection{packed: map[string][]byte{}, path: map[string]string{}, Encrypts: true}
	for _, any := range encrypts {
		s.Encrypts = s.Encrypts && slices.ContainsFunc(any, t.has)
	}
	for _, name := range t.closure(roots) {
		if err := s.add(modules, t, name); err != nil {
			return nil, err
		}
	}
	for _, a := range t.aliases {
		if _, ok := s.packed[a.Module]; ok {
			s.Index.Aliases = append(s.Index.Aliases, a)
		}
	}
	return s, nil
}

// Files calls f for each chosen module with the bytes of its file as the image has them,
// always in the same order.
func (s *Selection) Files(f func(name string, packed []byte)) {
	for _, m := range s.Index.Modules {
		f(m.Name, s.packed[m.Name])
	}
}

func (s *Selection) add(modules fs.FS, t *tables, name string) error {
	packed, err := bounded.ReadFile(modules, t.path[name], maxModule)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf(
			"modules.dep lists %s, but the file does not exist: run depmod in the image after changing its modules",
			t.path[name],
		)
	}
	if err != nil {
		return fmt.Errorf("read module: %w", err)
	}
	if s.size += int64(len(packed)); s.size > maxModules {
		return fmt.Errorf("the modules that booting needs have more than %d MiB", maxModules>>20)
	}
	s.packed[name], s.path[name] = packed, t.path[name]
	s.Index.Modules = append(s.Index.Modules, kmod.Module{Name: name, Deps: t.before(name)})
	return nil
}

// content returns a module as the kernel loads it.
func (s *Selection) content(name string) ([]byte, error) {
	plain, err := decompress(s.path[name], s.packed[name])
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", s.path[name], err)
	}
	if !bytes.HasPrefix(plain, []byte("\x7fELF")) {
		return nil, fmt.Errorf("module %s: not an ELF file", s.path[name])
	}
	return plain, nil
}
