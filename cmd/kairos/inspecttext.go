package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/docker/go-units"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/layout"
)

// printInspection prints for people. What it prints is a stranger's: nothing of it reaches the terminal as a
// control character.
func printInspection(w io.Writer, i *api.Inspection) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s: %s, %s", i.Source, kindName(i.Kind), units.HumanSize(float64(i.Size)))
	if i.SectorSize > 512 {
		fmt.Fprintf(&b, ", sectors of %d bytes", i.SectorSize)
	}
	fmt.Fprintln(&b)
	printPartitions(&b, i.Partitions)
	for _, r := range i.Releases {
		printRelease(&b, r, i.Kind == api.KindImage)
	}
	if len(i.Releases) == 0 {
		fmt.Fprint(&b, "\nNo release: Kairos did not make it, or it is damaged.\n")
	}
	printEntries(&b, i.Entries)
	if len(i.BootFiles) > 0 {
		fmt.Fprint(&b, "\nBoot files\n")
		table(&b, func(w io.Writer) {
			for _, f := range i.BootFiles {
				fmt.Fprintf(w, "  %s\t%s\n", plain(f.Path), size(f.Size))
			}
		})
	}
	if i.Kind != api.KindImage {
		fmt.Fprintf(&b, "\nCloud-config: %s\n", cmp.Or(plain(strings.Join(i.Configs, ", ")), "none"))
	}
	if len(i.Problems) > 0 {
		fmt.Fprint(&b, "\nProblems\n")
		for _, p := range i.Problems {
			fmt.Fprintf(&b, "  %s\n", plain(p))
		}
	}
	_, err := b.WriteTo(w)
	return err
}

func printPartitions(b *bytes.Buffer, partitions []api.Partition) {
	if len(partitions) == 0 {
		return
	}
	fmt.Fprint(b, "\nPartitions\n")
	table(b, func(w io.Writer) {
		fmt.Fprint(w, "  #\tname\ttype\tstart\tsize\tfile system\tlabel\n")
		for _, p := range partitions {
			number := "-"
			if p.Number > 0 {
				number = strconv.Itoa(p.Number)
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%d\t%s\t%s\t%s\n", number, orDash(p.Name), typeName(p.Type), p.Start,
				size(p.Size),
				orDash(p.FS), orDash(p.Label))
		}
	})
}

func printRelease(b *bytes.Buffer, r api.Release, image bool) {
	where := r.Role
	if r.Place != "" && r.Place != r.Role {
		where = fmt.Sprintf("%s, on %s", cmp.Or(r.Role, "no boot entry"), r.Place)
	}
	fmt.Fprintf(b, "\nRelease %s  %s  %s", r.Release, plain(r.Version), plain(r.Arch))
	if where != "" {
		fmt.Fprintf(b, "  %s", where)
	}
	fmt.Fprintln(b)
	table(b, func(w io.Writer) {
		fmt.Fprintf(w, "  image\t%s\n  digest\t%s\n", orDash(r.Image), r.ConfigDigest)
		if r.Created != nil {
			fmt.Fprintf(w, "  time\t%s\n", r.Created.UTC().Format("2006-01-02 15:04:05"))
		}
		if r.Kernel != "" {
			fmt.Fprintf(w, "  kernel\t%s\n", plain(r.Kernel))
		}
		if r.Cmdline != "" {
			fmt.Fprintf(w, "  command line\t%s\n", plain(r.Cmdline))
		}
		for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
			fmt.Fprintf(w, "  label\t%s=%s\n", plain(k), plain(r.Labels[k]))
		}
		fmt.Fprintf(w, "  layers\t%d, %s", len(r.Layers), size(r.Size))
		if r.Shared > 0 {
			fmt.Fprintf(w, ", of which other releases have %s, too", size(r.Shared))
		}
		fmt.Fprintln(w)
	})
	table(b, func(w io.Writer) {
		for n, l := range r.Layers {
			root := ""
			if !image {
				root = "root " + l.RootHash
			}
			shared := ""
			if len(l.SharedWith) > 0 {
				shared = "shared with " + strings.Join(l.SharedWith, ", ")
			}
			fmt.Fprintf(w, "    %d\t%s\t%s\t%s\t%s\n", n+1, l.DiffID, size(l.Size), root, shared)
		}
	})
}

func printEntries(b *bytes.Buffer, entries []api.BootEntry) {
	if len(entries) == 0 {
		return
	}
	fmt.Fprint(b, "\nBoot entries, in the order in which they are tried\n")
	table(b, func(w io.Writer) {
		for _, e := range entries {
			state := fmt.Sprintf("on trial, %d tries left", e.TriesLeft)
			switch {
			case e.Sequence == layout.RecoverySeq:
				state = "recovery"
			case e.TriesLeft == 0 && (!e.Blessed || e.TriesUsed > 0):
				state = "failed"
			case e.Blessed:
				state = "blessed"
			}
			fmt.Fprintf(w, "  %08d\t%s\t%s\n", e.Sequence, e.Release, state)
		}
	})
}

// table aligns columns, and leaves no spaces at a line's end.
func table(b *bytes.Buffer, rows func(io.Writer)) {
	var aligned bytes.Buffer
	w := tabwriter.NewWriter(&aligned, 0, 8, 2, ' ', 0)
	rows(w)
	_ = w.Flush() // to memory
	for line := range strings.Lines(aligned.String()) {
		fmt.Fprintln(b, strings.TrimRight(line, " \n"))
	}
}

func kindName(kind string) string {
	switch kind {
	case api.KindISO:
		return "ISO"
	case api.KindRaw:
		return "raw disk"
	case api.KindQCOW2:
		return "qcow2 disk"
	}
	return kind
}

func typeName(guid string) string {
	switch guid {
	case "":
		return "-"
	case layout.TypeBIOSBoot:
		return "BIOS boot"
	case layout.TypeESP:
		return "EFI system"
	case layout.TypeLinux:
		return "Linux"
	}
	return guid
}

func size(n int64) string {
	if n == 0 {
		return "-"
	}
	return units.HumanSize(float64(n))
}

func orDash(s string) string { return cmp.Or(plain(s), "-") }

// plain shows what a terminal would act upon.
func plain(s string) string {
	q := strconv.QuoteToGraphic(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}
