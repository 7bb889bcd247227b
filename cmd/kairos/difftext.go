package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/layout"
)

// printDiff prints for people. Names in images are strangers': no control character of theirs reaches the terminal.
func printDiff(w io.Writer, d api.Diff) error {
	var b bytes.Buffer
	table(&b, func(w io.Writer) {
		for _, s := range []struct {
			name string
			api.DiffSide
		}{{"A", d.A}, {"B", d.B}} {
			fmt.Fprintf(w, "%s\t%s\trelease %s\t%s\t%s\n",
				s.name, plain(s.Source), s.Release, plain(s.Version), s.Arch)
		}
	})
	if d.A.ConfigDigest == d.B.ConfigDigest {
		fmt.Fprint(&b, "They are the same image.\n")
	}
	how := fmt.Sprintf("as whole layers: %s", plain(d.WholeLayers))
	if d.WholeLayers == "" {
		how = fmt.Sprintf("by blocks, in %d requests; %s are those of A", d.Requests, mb(d.Reuse))
	}
	fmt.Fprintf(&b, "\nA node that has A fetches %s for B, %s.\n", mb(d.Fetch), how)
	table(&b, func(w io.Writer) {
		for _, l := range d.Layers {
			fmt.Fprintf(w, "  %s\t%s\t", layout.Digest(l.DiffID).Short(), mb(l.Size))
			if l.By == api.ByNothing {
				fmt.Fprint(w, "A has it\t\n")
			} else {
				fmt.Fprintf(w, "%s fetched\t%s\n", mb(l.Fetch), map[string]string{
					api.ByBlocks: mb(l.Reuse) + " reused", api.ByLayer: "whole",
				}[l.By])
			}
		}
	})
	printDifferences(&b, "Kernel", d.Boot, "")
	printDifferences(&b, "Labels", d.Labels, "")
	printDifferences(&b, "Packages", d.Packages, d.PackagesUnknown)
	printFiles(&b, d)
	_, err := b.WriteTo(w)
	return err
}

func printDifferences(b *bytes.Buffer, what string, all []api.Difference, unknown string) {
	switch {
	case unknown != "":
		fmt.Fprintf(b, "\n%s are not known: %s.\n", what, unknown)
		return
	case len(all) == 0:
		return
	}
	fmt.Fprintf(b, "\n%s\n", what)
	table(b, func(w io.Writer) {
		for _, d := range all {
			fmt.Fprintf(w, "  %s\t%s\t-> %s\n",
				plain(d.Name), cmp.Or(plain(d.Before), "-"), cmp.Or(plain(d.After), "-"))
		}
	})
}

func printFiles(b *bytes.Buffer, d api.Diff) {
	switch {
	case d.FilesUnknown != "":
		fmt.Fprintf(b, "\nFiles are not known: %s.\n", d.FilesUnknown)
		return
	case len(d.Files) == 0:
		fmt.Fprint(b, "\nFiles are the same.\n")
		return
	}
	fmt.Fprintf(b, "\n%d files\n", len(d.Files))
	table(b, func(w io.Writer) {
		for _, f := range d.Files {
			size := size(f.After)
			switch f.Change {
			case api.FileRemoved:
				size = "" // it takes none
			case api.FileChanged:
				size += fmt.Sprintf(" (%+d bytes)", f.After-f.Before)
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\n", f.Change, plain(f.Path), size)
		}
	})
}

func mb(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
