package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image/source"
)

type inspectOptions struct {
	output string
	source source.Options
}

func newInspectCommand(s streams) *cobra.Command {
	var o inspectOptions
	c := &cobra.Command{
		Use:   "inspect [flags] FILE|IMAGE",
		Short: "Show what is on a medium or in an image",
		Long: `Shows what an ISO or a disk (raw or qcow2, a file or a device) consists of: partitions, releases and
their layers, what releases share, boot entries, boot files, command lines, and whether a cloud-config is
there; never what is in it. Nothing is mounted, and nothing is compared with its digest: ` +
			"`kairos-apply verify`" + ` does
that on a node.

Of an image it shows the release that it would become, and what its boot layer has: for that, layers are
fetched from the top down to the boot layer. IMAGE is one of
` + source.Help,
		Example: `  kairos inspect os.iso
  kairos inspect -o json os.qcow2
  kairos inspect registry.example/os:v2`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("kairos inspect needs one argument: a file, or an image. See `kairos inspect --help`")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return o.run(c.Context(), args[0], s) },
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVarP(&o.output, "output", "o", "text", "what to print: text or json")
	addSourceFlags(f, &o.source)
	return c
}

func (o *inspectOptions) run(ctx context.Context, name string, s streams) error {
	if o.output != "text" && o.output != "json" {
		return usagef("-o %s: want text or json", o.output)
	}
	found, err := o.inspect(ctx, name)
	if err != nil {
		return err
	}
	found.Schema, found.Source = api.Schema, name
	if o.output == "json" {
		e := json.NewEncoder(s.out)
		e.SetIndent("", "  ")
		return e.Encode(found)
	}
	return printInspection(s.out, found)
}

// inspect looks at a medium, which is a file that is there or named by its kind, else at an image.
func (o *inspectOptions) inspect(ctx context.Context, name string) (*api.Inspection, error) {
	ref, err := source.Parse(name)
	file := name
	if err == nil && (ref.Kind == source.ISO || ref.Kind == source.Disk) {
		file = ref.Name
	} else if info, serr := os.Stat(name); serr != nil {
		if !errors.Is(serr, os.ErrNotExist) || isPath(name) {
			return nil, serr
		}
		if err != nil {
			return nil, usageError{err}
		}
		return o.inspectImage(ctx, name)
	} else if info.IsDir() {
		return nil, usagef("%s is a folder: write oci-layout:%s, or dir:%s for a root file system", name, name, name)
	}
	found, err := inspectFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return found, nil
}

// isPath says whether a name can only be a file's.
func isPath(name string) bool {
	if strings.HasPrefix(name, "/") || strings.HasPrefix(name, "./") || strings.HasPrefix(name, "../") {
		return true
	}
	for _, suffix := range []string{".iso", ".raw", ".img", ".qcow2"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}
