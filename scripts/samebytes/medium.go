package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/kairos-buildkit/kairos/disk"
)

// mediumDiffers compares two media byte by byte, and says of each partition and file system what differs in it.
func mediumDiffers(before, after string) ([]string, error) {
	a, err := os.Open(before)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	b, err := os.Open(after)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	sizeA, sizeB, err := sizes(a, b)
	if err != nil {
		return nil, err
	}
	r, err := bytesDiffer(a, b)
	if err != nil || r.count == 0 && sizeA == sizeB {
		return nil, err
	}
	differs := []string{fmt.Sprintf("%d bytes -> %d bytes; %v", sizeA, sizeB, r)}
	x, err := disk.OpenMedium(a, sizeA)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", before, err)
	}
	y, err := disk.OpenMedium(b, sizeB)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", after, err)
	}
	if len(x.Volumes) != len(y.Volumes) {
		return append(differs, fmt.Sprintf("%d partitions -> %d", len(x.Volumes), len(y.Volumes))), nil
	}
	for i, v := range x.Volumes {
		d, err := volumeDiffers(v, y.Volumes[i])
		if err != nil {
			return nil, err
		}
		differs = append(differs, d...)
	}
	return differs, nil
}

func sizes(a, b *os.File) (x, y int64, err error) {
	i, err := a.Stat()
	if err != nil {
		return 0, 0, err
	}
	j, err := b.Stat()
	if err != nil {
		return 0, 0, err
	}
	return i.Size(), j.Size(), nil
}

func volumeDiffers(v, w disk.Volume) ([]string, error) {
	name := v.Name
	if name == "" {
		name = v.FS
	}
	var differs []string
	say := func(format string, args ...any) {
		differs = append(differs, name+": "+fmt.Sprintf(format, args...))
	}
	for _, c := range []struct {
		what          string
		before, after any
	}{
		{"file system", v.FS, w.FS}, {"label", v.Label, w.Label}, {"partition", v.Name, w.Name},
		{"type", v.Type, w.Type}, {"begins at", v.Start, w.Start}, {"bytes", v.Size, w.Size},
	} {
		if c.before != c.after {
			say("%s %v -> %v", c.what, c.before, c.after)
		}
	}
	if v.GUID != w.GUID {
		say("GUID, which is derived from the image")
	}
	r, err := bytesDiffer(io.NewSectionReader(v, 0, v.Size), io.NewSectionReader(w, 0, w.Size))
	if err != nil || r.count == 0 {
		return differs, err
	}
	if v.FS == "" || w.FS == "" {
		say("%v", r)
		return differs, nil
	}
	a, err := treeOf(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	b, err := treeOf(w)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	files := filesDiffer(a, b)
	if len(files) == 0 {
		say("%v, in the file system's own structures: the files are the same", r)
	}
	for _, f := range files {
		say("%s", f)
	}
	return differs, nil
}

func treeOf(v disk.Volume) (map[string]file, error) {
	files, err := v.Open()
	if err != nil {
		return nil, err
	}
	all := map[string]file{}
	return all, fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		f := file{what: d.Type().String()}
		if d.Type().IsRegular() {
			in, err := files.Open(name)
			if err != nil {
				return err
			}
			sum := sha256.New()
			f.size, err = io.Copy(sum, in)
			in.Close()
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			sum.Sum(f.sum[:0])
		}
		all["/"+name] = f
		return nil
	})
}
