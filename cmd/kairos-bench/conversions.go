package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// subject is a tool with its options.
type subject struct {
	name string
	// unpack is whether it starts from a folder, so that unpacking the layer counts.
	unpack bool
	// stdin is whether it reads the layer from its standard input.
	stdin bool
	// args make out of in, a layer or a folder.
	args func(in, out string) []string
}

const tools = "build/tools/"

func subjects() ([]subject, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ours := func(compression string) subject {
		return subject{name: "Kairos " + compression, args: func(in, out string) []string {
			return []string{self, "convert", compression, in, out}
		}}
	}
	mkfs := func(name string, options ...string) subject {
		return subject{name: "mkfs.erofs " + name, args: func(in, out string) []string {
			return slices.Concat([]string{tools + "mkfs.erofs", "--quiet", "--tar=f"}, options, []string{out, in})
		}}
	}
	squash := func(name string, options ...string) subject {
		return subject{name: "mksquashfs " + name, unpack: true, args: func(in, out string) []string {
			return slices.Concat(
				[]string{tools + "mksquashfs", in, out, "-noappend", "-no-progress", "-quiet"},
				options,
			)
		}}
	}
	return []subject{
		ours(
			"none",
		), ours("lz4"), ours("lz4-9"), ours("zstd-1"), ours("zstd-2"), ours("zstd-3"), ours("zstd-6"), ours("zstd-9"),
		ours("zstd-15"),
		{name: "go-erofs", args: func(in, out string) []string { return []string{self, "go-erofs", in, out} }},
		mkfs("none"), mkfs("lz4hc", "-zlz4hc"), mkfs("zstd-3, 128 KiB", "-zzstd,3", "-C131072"),
		squash(
			"zstd-3",
			"-comp",
			"zstd",
			"-Xcompression-level",
			"3",
		), squash("zstd-15", "-comp", "zstd", "-Xcompression-level", "15"),
		squash("gzip, 1 MiB", "-comp", "gzip", "-b", "1M"),
		{name: "sqfstar zstd-3", stdin: true, args: func(_, out string) []string {
			return []string{
				tools + "sqfstar",
				"-comp",
				"zstd",
				"-Xcompression-level",
				"3",
				"-no-progress",
				"-quiet",
				out,
			}
		}},
	}, nil
}

func (b *bench) conversions(ctx context.Context) error {
	all, err := subjects()
	if err != nil {
		return err
	}
	for _, name := range b.inputs {
		layer, err := b.input(ctx, name)
		if err != nil {
			return err
		}
		var t strings.Builder
		info, err := warm(layer)
		if err != nil {
			return err
		}
		fmt.Fprintf(
			&t,
			"Input: %s, %.0f MB. Medians of %d. %s.\n\n",
			filepath.Base(layer),
			mb(info),
			b.runs,
			machine(),
		)
		t.WriteString(
			"| tool | seconds | of which unpacking | CPU seconds | MB out | peak MB |\n|---|--:|--:|--:|--:|--:|\n",
		)
		for _, s := range all {
			row, err := b.convertWith(ctx, s, layer)
			if err != nil {
				return err
			}
			fmt.Fprintln(os.Stderr, name, row)
			t.WriteString(row + "\n")
			// After each row: hours of measuring are not lost to an interruption.
			if err := b.replace("convert-"+strings.TrimSuffix(filepath.Base(name), ".tar"), t.String()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) convertWith(ctx context.Context, s subject, layer string) (string, error) {
	out, tree := filepath.Join(b.dir, "out"), filepath.Join(b.dir, "tree")
	var seconds, unpacking, cpu, memory []float64
	var size int64
	for range b.runs {
		if err := errors.Join(os.RemoveAll(out), os.RemoveAll(tree)); err != nil {
			return "", err
		}
		var c cost
		in, stdin := layer, ""
		if s.stdin {
			stdin = layer
		}
		if s.unpack {
			in = tree
			if err := os.MkdirAll(tree, 0o755); err != nil {
				return "", err
			}
			unpacked, err := process(
				ctx,
				"",
				"tar",
				"--extract",
				"--file",
				layer,
				"--directory",
				tree,
				"--numeric-owner",
				"--xattrs",
				"--xattrs-include=*",
			)
			if err != nil {
				return "", err
			}
			c = unpacked
			unpacking = append(unpacking, unpacked.seconds)
		}
		made, err := process(ctx, stdin, s.args(in, out)...)
		if err != nil {
			return "", err
		}
		c = c.and(made)
		info, err := os.Stat(out)
		if err != nil {
			return "", err
		}
		size = info.Size()
		seconds, cpu, memory = append(seconds, c.seconds), append(cpu, c.cpu), append(memory, float64(made.memory))
	}
	unpack := ""
	if s.unpack {
		unpack = fmt.Sprintf("%.2f", median(unpacking))
	}
	err := errors.Join(os.RemoveAll(out), os.RemoveAll(tree))
	return fmt.Sprintf(
		"| %s | %.2f | %s | %.2f | %.1f | %.0f |",
		s.name,
		median(seconds),
		unpack,
		median(cpu),
		mb(size),
		mb(int64(median(memory))),
	), err
}

// warm reads a file once, and returns its size.
func warm(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return io.Copy(io.Discard, f)
}

func mb(n int64) float64 { return float64(n) / 1e6 }
