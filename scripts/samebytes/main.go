// Command samebytes says whether two builds of one image gave the same bytes, and if not, where they differ. Each
// folder has what scripts/same-bytes makes: image (an OCI layout), os.iso and os.raw.
//
//	usage: samebytes BEFORE AFTER
//
// It exits with 0 where all is the same, with 1 where something differs.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

func main() {
	layers := flag.String("layers", "", "print how many layers the image in this OCI layout has, and do nothing else")
	flag.Parse()
	if *layers != "" {
		n, err := countLayers(*layers)
		if err != nil {
			fmt.Fprintln(os.Stderr, "samebytes:", err)
			os.Exit(2)
		}
		fmt.Println(n)
		return
	}
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: samebytes BEFORE AFTER")
		os.Exit(2)
	}
	same, err := compare(os.Stdout, flag.Arg(0), flag.Arg(1))
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "samebytes:", err)
		os.Exit(2)
	case !same:
		os.Exit(1)
	}
}

// compare writes a paragraph for each artifact.
func compare(w io.Writer, before, after string) (same bool, err error) {
	same = true
	say := func(name string, differs []string, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if len(differs) == 0 {
			fmt.Fprintf(w, "%s: same\n", name)
			return nil
		}
		same = false
		fmt.Fprintf(w, "%s: different\n", name)
		for _, d := range differs {
			fmt.Fprintf(w, "  %s\n", d)
		}
		return nil
	}
	a, err := readImage(filepath.Join(before, "image"))
	if err != nil {
		return false, err
	}
	b, err := readImage(filepath.Join(after, "image"))
	if err != nil {
		return false, err
	}
	if err := say("boot layer", a.layerDiffers(b), nil); err != nil {
		return false, err
	}
	if err := say("image config", a.configDiffers(b), nil); err != nil {
		return false, err
	}
	for _, m := range []struct{ name, file string }{{"ISO", "os.iso"}, {"raw disk", "os.raw"}} {
		d, err := mediumDiffers(filepath.Join(before, m.file), filepath.Join(after, m.file))
		if err := say(m.name, d, err); err != nil {
			return false, err
		}
	}
	return same, nil
}

// file is what makes two files the same one, in an order for people.
type file struct {
	what string // type, mode, owner, time, where a link leads
	size int64
	sum  [32]byte
}

// filesDiffer lists names of two trees that are in one of them alone, or differ.
func filesDiffer(a, b map[string]file) (differs []string) {
	names := maps.Clone(a)
	maps.Copy(names, b)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		x, inA := a[name]
		y, inB := b[name]
		switch {
		case !inA:
			differs = append(differs, fmt.Sprintf("+ %s, %d bytes", name, y.size))
		case !inB:
			differs = append(differs, fmt.Sprintf("- %s, %d bytes", name, x.size))
		case x.sum != y.sum:
			differs = append(differs, fmt.Sprintf("M %s, %d bytes -> %d bytes", name, x.size, y.size))
		case x.what != y.what:
			differs = append(differs, fmt.Sprintf("M %s: %s -> %s", name, x.what, y.what))
		}
	}
	return differs
}

const block = 4096

// runs are the runs of blocks in which two files differ.
type runs struct{ count, blocks int64 }

func (r runs) String() string {
	return fmt.Sprintf("%d KiB in %d places", r.blocks*block/1024, r.count)
}

// bytesDiffer compares two readers to their ends, which are counted as zeros.
func bytesDiffer(a, b io.Reader) (r runs, err error) {
	var p, q [block]byte
	differed := false
	for {
		n, err := full(a, p[:])
		if err != nil {
			return r, err
		}
		m, err := full(b, q[:])
		if err != nil || n == 0 && m == 0 {
			return r, err
		}
		differs := !bytes.Equal(p[:], q[:])
		if differs {
			r.blocks++
		}
		if differs && !differed {
			r.count++
		}
		differed = differs
	}
}

// full fills a block, with zeros behind the end.
func full(r io.Reader, b []byte) (int, error) {
	n, err := io.ReadFull(r, b)
	clear(b[n:])
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return n, err
}
