// kairos-bench measures what Kairos writes against what other tools write, on one machine, in
// one run, from the same input, and puts the tables into docs/performance.md; those of simulated
// fleets go into docs/scale.md:
//
//	kairos-bench [-runs N] [-input NAMES] [-only convert|iso|read|boot|layers|scale|upgrades|staging]
//	             [-layers N,N,…] [-keep] [-o FILE]
//
// It starts from build/bin, build/base and build/tools (`make build base tools`), makes what else
// it needs, and runs as root, because unpacking a layer takes it. Every tool runs as a process of its own, ours too; a
// number is the median of the runs. Inputs are read once before, so that they come from memory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/layout"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kairos-bench:", err)
		os.Exit(1)
	}
}

// bench is one run of the program.
type bench struct {
	runs   int
	inputs []string
	only   string
	counts []int  // of layers; the first one is what the others are compared with
	dir    string // for everything that it makes
	keep   bool   // the images that upgrades are measured with
	out    string
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] { // the program as one of its own subjects
		case "convert":
			return convert(ctx, args[1:])
		case "go-erofs":
			return goErofs(args[1:])
		case "iso":
			return exportISO(ctx, args[1:])
		case "boot-layer":
			if len(args) != 3 {
				return errors.New("usage: kairos-bench boot-layer TAR LAYER")
			}
			return bootLayer(ctx, args[1], args[2])
		case "make-tree":
			return makeTree(args[1:])
		case "stage-generated":
			return stageGenerated(ctx, args[1:])
		case "stage":
			return stage(ctx, args[1:])
		case "unpack":
			return unpack(ctx, args[1:])
		}
	}
	b := bench{dir: "build/bench"}
	flags := flag.NewFlagSet("kairos-bench", flag.ContinueOnError)
	flags.IntVar(&b.runs, "runs", 5, "runs of each tool; their median counts")
	inputs := flags.String("input", "debian,developer,small", "inputs: debian, developer, small, or tar files")
	flags.StringVar(&b.only, "only", "", "only convert, iso, read, boot, layers, scale, upgrades or staging")
	counts := flags.String("layers", "6,40,110", "how many layers an image has whose boot is measured")
	flags.BoolVar(&b.keep, "keep", false, "keep the images of upgrades, and take those that were kept")
	flags.StringVar(&b.out, "o", "docs/performance.md", "file with the tables to replace")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	b.inputs = strings.Split(*inputs, ",")
	for word := range strings.SplitSeq(*counts, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || n > layout.MaxLayers {
			return fmt.Errorf("-layers %s: want numbers up to %d", *counts, layout.MaxLayers)
		}
		b.counts = append(b.counts, n)
	}
	if os.Geteuid() != 0 {
		return errors.New("run it as root: it unpacks layers with their owners")
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"convert", b.conversions}, {"iso", b.media}, {"read", b.reads}, {"boot", b.boots}, {"layers", b.layers},
		{"scale", b.scale},
		{"upgrades", b.pairsOfImages}, {"staging", b.staging},
	} {
		if b.only != "" && b.only != part.name {
			continue
		}
		if err := part.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// machine says what the numbers were measured on.
func machine() string {
	model := "unknown CPU"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				model = strings.TrimSpace(v)
				break
			}
		}
	}
	kernel, _ := exec.Command("uname", "-r").Output()
	version, _, _ := strings.Cut(strings.TrimSpace(string(kernel)), "-") // what follows is the builder's name for it
	return fmt.Sprintf("%d CPUs (%s), Linux %s, %s", runtime.NumCPU(), model, version, runtime.Version())
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// convert is our converter as a process: LEVEL is as in zstd-3.
func convert(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("usage: kairos-bench convert COMPRESSION[-LEVEL] TAR IMAGE")
	}
	var o erofs.Options
	name, level, _ := strings.Cut(args[0], "-")
	o.Compression = erofs.Compression(name)
	if level != "" {
		if _, err := fmt.Sscan(level, &o.Level); err != nil {
			return err
		}
	}
	in, err := os.Open(args[1])
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(args[2])
	if err != nil {
		return err
	}
	_, err = erofs.Convert(ctx, out, in, o)
	return errors.Join(err, out.Close())
}
