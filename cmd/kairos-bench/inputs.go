package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const debianTar = "build/base/debian-trixie.tar"

// input returns the layer of a name.
func (b *bench) input(ctx context.Context, name string) (string, error) {
	switch name {
	case "debian":
		return debianTar, nil
	case "developer":
		cmd := exec.CommandContext(ctx, "scripts/bench-inputs")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		return filepath.Join(b.dir, "developer.tar"), cmd.Run()
	case "small":
		path := filepath.Join(b.dir, "small.tar")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		return path, smallFiles(path)
	}
	if strings.HasSuffix(name, ".tar") {
		return name, nil
	}
	return "", fmt.Errorf("input %q: want debian, developer, small, or a tar file", name)
}

// smallFiles writes 100,000 files of 0 to 8 KiB of text, the same ones every time.
func smallFiles(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	r := rand.New(rand.NewPCG(1, 1))
	words := strings.Fields(
		"package import return error string func if else for range struct type const var the of and to a in is",
	)
	var content []byte
	for i := range 100_000 {
		content = content[:0]
		for n := r.IntN(8192); len(content) < n; {
			content = fmt.Appendf(
				content,
				"%s %s %x\n",
				words[r.IntN(len(words))],
				words[r.IntN(len(words))],
				r.IntN(1<<16),
			)
		}
		h := tar.Header{
			Name: fmt.Sprintf("src/%02d/%02d/file-%d.go", i%100, i/100%100, i), Mode: 0o644, Size: int64(len(content)),
			ModTime: time.Unix(1700000000+int64(i), 0),
		}
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
	}
	return w.Close()
}
