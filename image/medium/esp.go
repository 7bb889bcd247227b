package medium

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/loader/grub"
	"github.com/kairos-buildkit/kairos/loader/sdboot"
	"github.com/kairos-buildkit/kairos/uki"
)

// readESP reads boot entries and lists the boot files.
func (m *Medium) readESP(files fs.FS) error {
	m.esp = files
	if err := m.addBootFiles(files, ".", 0); err != nil {
		return err
	}
	if m.Format == "iso" {
		return nil
	}
	// The names of the UKIs: what GRUB has is a copy on UEFI, and on BIOS these are one that each command makes agree.
	state, err := loader.Read(small{files}, sdboot.Loader{}, grub.Loader{})
	if err != nil {
		return err
	}
	m.State = state
	return nil
}

// maxDepth is how deep boot files lie.
const maxDepth = 4

func (m *Medium) addBootFiles(files fs.FS, dir string, depth int) error {
	entries, err := list(files, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if e.IsDir() {
			if depth < maxDepth {
				if err := m.addBootFiles(files, name, depth+1); err != nil {
					return err
				}
			}
			continue
		}
		if len(m.BootFiles) == maxNames {
			return fmt.Errorf("it has more than %d files", maxNames)
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		f := BootFile{Path: name, Size: info.Size()}
		if strings.EqualFold(path.Ext(name), ".efi") {
			f.Cmdline = cmdline(files, name)
		}
		if e, err := layout.ParseEntry(path.Base(name)); err == nil && path.Dir(name) == layout.UKIDir {
			f.Release = e.ID
		}
		m.BootFiles = append(m.BootFiles, f)
	}
	return nil
}

// cmdline returns a UKI's kernel command line. Other programs have none.
func cmdline(files fs.FS, name string) string {
	f, err := files.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	r, ok := f.(io.ReaderAt)
	if !ok {
		return ""
	}
	b, err := uki.ReadSection(r, uki.Cmdline, maxCmdline)
	if err != nil {
		return ""
	}
	return layout.ParseCmdline(string(bytes.TrimRight(b, "\x00"))).String()
}

// small are files that are read as a whole, if they are small.
type small struct{ fs.FS }

// ReadDir implements [loader.Files].
func (s small) ReadDir(dir string) ([]string, error) {
	entries, err := list(s.FS, dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// ReadFile implements [loader.Files].
func (s small) ReadFile(name string) ([]byte, error) { return bounded.ReadFile(s.FS, name, maxSmall) }
