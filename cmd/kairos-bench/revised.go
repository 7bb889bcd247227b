package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
)

// revision is what differs in another version of the Debian base, or of its boot layer.
type revision struct {
	name     string
	files    []string // by their names
	packages []string // programs and libraries of these, and what dpkg knows of them
	kernel   bool     // the kernel and all of its modules, under the name of another version
}

// revise writes a layer with the revision's changes.
func (v revision) revise(from, to string) (err error) {
	owned, err := v.owned(from)
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	buffered := bufio.NewWriterSize(out, 1<<20)
	w, changed := tar.NewWriter(buffered), 0
	err = eachFile(from, func(h *tar.Header, content io.Reader) error {
		name := path.Clean(h.Name)
		if h.Typeflag == tar.TypeReg && h.Size > 0 {
			b, err := io.ReadAll(content)
			if err != nil {
				return err
			}
			was := b
			switch program := bytes.HasPrefix(b, []byte("\x7fELF")); {
			case slices.Contains(v.files, name), owned[name] && program:
				b = moved(b)
			case owned[name] && strings.HasPrefix(name, dpkg):
				b = slices.Concat(b[:len(b)/2], []byte("\n"), b[len(b)/2:])
			case v.kernel && (strings.HasPrefix(name, "boot/") || strings.HasPrefix(name, "usr/lib/modules/")):
				b = inPlace(b)
			}
			if !bytes.Equal(b, was) {
				changed++
			}
			h.Size, content = int64(len(b)), bytes.NewReader(b)
		}
		if v.kernel {
			next := strings.NewReplacer("6.12.", "6.13.")
			h.Name, h.Linkname = next.Replace(h.Name), next.Replace(h.Linkname)
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(w, content)
		return err
	})
	if err == nil && changed == 0 {
		err = fmt.Errorf("%s has nothing that %q changes", from, v.name)
	}
	return errors.Join(err, w.Close(), buffered.Flush())
}

const dpkg = "var/lib/dpkg/"

// owned are the files of the revision's packages.
func (v revision) owned(layer string) (map[string]bool, error) {
	owned := map[string]bool{}
	if len(v.packages) == 0 {
		return owned, nil
	}
	owned[dpkg+"status"] = true
	return owned, eachFile(layer, func(h *tar.Header, content io.Reader) error {
		name := path.Clean(h.Name)
		list, ok := strings.CutPrefix(name, dpkg+"info/")
		of, _, _ := strings.Cut(list, ".")
		of, _, _ = strings.Cut(of, ":")
		if !ok || !slices.Contains(v.packages, of) {
			return nil
		}
		owned[name] = true
		if path.Ext(name) != ".list" {
			return nil
		}
		b, err := io.ReadAll(content)
		for file := range strings.Lines(string(b)) {
			owned[strings.TrimPrefix(strings.TrimSpace(file), "/")] = true
		}
		return err
	})
}

func eachFile(layer string, do func(*tar.Header, io.Reader) error) error {
	in, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer in.Close()
	for r := tar.NewReader(bufio.NewReaderSize(in, 1<<20)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", layer, err)
		}
		if err := do(h, r); err != nil {
			return fmt.Errorf("%s: %s: %w", layer, h.Name, err)
		}
	}
}

// moved is a program that was built again: what is behind its beginning is somewhere else.
func moved(b []byte) []byte {
	at := min(len(b), 1000)
	return slices.Concat(b[:at], []byte("rebuilt!"), b[at:])
}

// inPlace changes a byte of each block, so that what lies in two files, at multiples of a block, still is the same
// there.
func inPlace(b []byte) []byte {
	b = bytes.Clone(b)
	for i := 17; i < len(b); i += 4096 {
		b[i] ^= 0x55
	}
	return b
}
