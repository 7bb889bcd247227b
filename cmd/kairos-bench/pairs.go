package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// pair is two systems, each a layer as a tar file.
type pair struct {
	name     string // part of a repository's
	what     string // a sentence about the difference
	from, to string // from is "" where nothing is here
}

// changedFile is the file of the pair "file": a library of some megabytes.
const changedFile = "usr/lib/x86_64-linux-gnu/libcrypto.so.3"

// pairs are what an upgrade is measured with. The first one's second system is made in dir.
func (b *bench) pairs(dir string) ([]pair, error) {
	systems := filepath.Join(b.dir, "systems")
	now, insertion := filepath.Join(systems, "now.tar"), filepath.Join(dir, "file.tar")
	size, err := insertInto(now, insertion, changedFile)
	if err != nil {
		return nil, err
	}
	updates, err := os.ReadFile(filepath.Join(systems, "updates"))
	if err != nil {
		return nil, err
	}
	var packages []string
	for line := range strings.Lines(string(updates)) {
		name, _, _ := strings.Cut(line, "\t")
		name, _, _ = strings.Cut(name, ":")
		packages = append(packages, name)
	}
	return []pair{
		{"file", fmt.Sprintf("**One file**: 64 bytes inserted near the beginning of /%s, %.1f MB.",
			changedFile, mb(size)), now, insertion},
		{"updates", fmt.Sprintf("**A round of updates**: %d packages, in Debian's version instead of its security "+
			"archive's (%s).",
			len(packages), strings.Join(packages, ", ")), filepath.Join(systems, "before.tar"), now},
		{"kernel", "**Another kernel**, of the same series, and so another boot layer.",
			filepath.Join(systems, "kernel.tar"), now},
		{"first", "**All of it**: nothing is here, as at an installation.", "", now},
	}, nil
}

// insertInto copies a layer, with 64 bytes more in a file, behind its first block. It returns the file's size.
func insertInto(from, to, name string) (size int64, err error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return 0, err
	}
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	r, w := tar.NewReader(in), tar.NewWriter(out)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
		content := io.Reader(r)
		if strings.TrimPrefix(h.Name, "./") == name && h.Typeflag == tar.TypeReg {
			size = h.Size
			h.Size += 64
			content = io.MultiReader(io.LimitReader(r, 4096), bytes.NewReader(bytes.Repeat([]byte("changed "), 8)), r)
		}
		if err := w.WriteHeader(h); err != nil {
			return 0, err
		}
		if _, err := io.Copy(w, content); err != nil {
			return 0, err
		}
	}
	if size == 0 {
		return 0, fmt.Errorf("%s has no file %s", from, name)
	}
	return size, w.Close()
}
