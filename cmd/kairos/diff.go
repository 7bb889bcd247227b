package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/release/diff"
)

type diffOptions struct {
	output  string
	noFiles bool
	source  source.Options
}

func newDiffCommand(s streams) *cobra.Command {
	var o diffOptions
	c := &cobra.Command{
		Use:   "diff [flags] A B",
		Short: "Show how two images differ, and what a node with the one fetches for the other",
		Long: `Compares two images, wherever they are: how many bytes a node that has A fetches for B, layer by
layer; the kernel, its command line and the labels; the packages that dpkg or apk has installed; and the
files, by content, mode, owner and capabilities, not by time.

Bytes are counted by blocks where both images have a release beside them (` + "`kairos release`" + `) or are on
a medium, and by whole layers else: it says which, and why. For the files, layers are read: each once, of a
release or medium what is needed to compare, else all of it. --no-files reads none. A release is believed:
its blobs are compared with its own root hashes, not with the image's layers.

A and B are each the file of an ISO or disk, or one of
` + source.Help,
		Example: `  kairos diff registry.example/os:v1 registry.example/os:v2
  kairos diff --no-files -o json os-v1.iso registry.example/os:v2`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("kairos diff needs two arguments: images or media. See `kairos diff --help`")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return o.run(c.Context(), args[0], args[1], s) },
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVarP(&o.output, "output", "o", "text", "what to print: text or json")
	f.BoolVar(&o.noFiles, "no-files", false, "do not read layers: neither files nor packages nor kernel are compared")
	addSourceFlags(f, &o.source)
	return c
}

func (o *diffOptions) run(ctx context.Context, a, b string, s streams) (err error) {
	if o.output != "text" && o.output != "json" {
		return usagef("-o %s: want text or json", o.output)
	}
	x, closeX, err := o.side(ctx, a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeX()) }()
	y, closeY, err := o.side(ctx, b)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeY()) }()
	d, err := diff.Compare(ctx, x, y, diff.Options{NoFiles: o.noFiles, Progress: stepPrinter(s.err)})
	if err != nil {
		return err
	}
	if o.output == "json" {
		e := json.NewEncoder(s.out)
		e.SetIndent("", "  ")
		return e.Encode(d)
	}
	return printDiff(s.out, d)
}

// side opens one of the two: a medium's file, or an image.
func (o *diffOptions) side(ctx context.Context, name string) (side diff.Side, done func() error, err error) {
	ref, err := fileRef(name)
	if err != nil {
		return side, nil, err
	}
	img, err := openImage(ctx, ref, o.source)
	if err != nil {
		return side, nil, err
	}
	side = diff.Side{Source: name, Image: img.Image}
	switch {
	case img.Made != nil:
		for _, l := range img.Layers {
			side.Blobs = append(side.Blobs, *l.Blob)
		}
	case img.Repository == nil:
		side.NoBlobs = "it is neither in a registry nor on a medium"
	default:
		a, err := releaseOf(ctx, img.Repository, &img.Image)
		if err != nil {
			if ctx.Err() != nil {
				return side, nil, errors.Join(ctx.Err(), img.Close())
			}
			side.NoBlobs = err.Error()
			break
		}
		side.Blobs = a.Remote(ctx, img.Repository)
	}
	return side, img.Close, nil
}

// fileRef completes the name of a medium's file: one without a kind that only a file can have, or that is there.
func fileRef(name string) (string, error) {
	ref, err := source.Parse(name)
	if err != nil && !isPath(name) {
		return "", usageError{err}
	}
	if err == nil && (ref.Kind != source.Registry || name != ref.Name) {
		return name, nil
	}
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, os.ErrNotExist) && !isPath(name):
		return name, nil
	case err != nil:
		return "", err
	case info.IsDir():
		return "", usagef("%s is a folder: write oci-layout:%s, or dir:%s for a root file system", name, name, name)
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	m, err := source.Medium(f)
	if err != nil {
		return "", usagef("%s: %w; if it is an image in a tar, write oci-archive:%s", name, err, name)
	}
	kind := source.Disk
	if m.Format == "iso" {
		kind = source.ISO
	}
	return source.Ref{Kind: kind, Name: name}.String(), nil
}
