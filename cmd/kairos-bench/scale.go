package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/internal/crowd"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release/blocks"
	"github.com/kairos-buildkit/kairos/verity"
)

// Releases whose upgrades are simulated: what they differ in from the one before.
var revisions = []revision{
	{name: "one file", files: []string{"usr/bin/bash"}},
	{name: "updates", packages: []string{"libssl3t64", "openssl", "systemd", "libsystemd-shared", "libsystemd0"}},
	{name: "kernel", kernel: true},
}

// The release that some nodes still have.
var older = revision{
	name: "older", packages: []string{"libc6", "libc-bin", "bash", "perl-base", "passwd", "libapt-pkg7", "apt"},
}

// converted is a layer's blob, of which only the tree is kept.
type converted struct {
	layout.Layer
	tree []byte
	gzip int64 // bytes of the layer's gzip
}

// ReadAt reads the tree, at its place in the blob.
func (c converted) ReadAt(p []byte, off int64) (int, error) {
	if off < c.Size {
		return 0, fmt.Errorf("only the tree is kept, and not what is at %d", off)
	}
	return bytes.NewReader(c.tree).ReadAt(p, off-c.Size)
}

func (c converted) remote(_ context.Context, off, n int64) (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(c, off, n)), nil
}

// simulated is one of the releases, with the ways to it.
type simulated struct {
	name   string
	layers []converted
	// Plans of each layer that is not there already, from the release before, from an older one, and from nothing.
	plans [3][]planned
}

type planned struct {
	blob int
	converted
	*blocks.Plan
}

// Shares of the nodes that come from the release before, from an older one, and from nothing.
var shares = [3]float64{0.8, 0.15, 0.05}

// scale simulates nodes by the thousand. What they ask for is planned as a node plans it, from real trees.
func (b *bench) scale(ctx context.Context) error {
	report := *b
	report.out = filepath.Join(filepath.Dir(b.out), "scale.md")
	ups, err := b.simulated(ctx)
	if err != nil {
		return err
	}
	for _, t := range []struct {
		name  string
		table func([]simulated) string
	}{
		{"releases", releasesTable}, {"gaps", gapsTable}, {"cdn", cdnTable}, {"ways", waysTable},
		{"workers", workersTable}, {"spread", spreadTable},
	} {
		table := t.table(ups)
		fmt.Fprintf(os.Stderr, "%s:\n%s\n", t.name, table)
		if err := report.replace("scale-"+t.name, table); err != nil {
			return err
		}
	}
	return nil
}

// simulated makes the releases.
func (b *bench) simulated(ctx context.Context) ([]simulated, error) {
	dir := filepath.Join(b.dir, "scale")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	boot := filepath.Join(dir, "boot.tar")
	if err := bootLayer(ctx, debianTar, boot); err != nil {
		return nil, err
	}
	layer := func(v revision, from string) (converted, error) {
		if v.name == "" {
			return convertedLayer(ctx, from, dir)
		}
		to := filepath.Join(dir, "revised.tar")
		if err := v.revise(from, to); err != nil {
			return converted{}, err
		}
		return convertedLayer(ctx, to, dir)
	}
	before, err := layer(revision{}, debianTar)
	if err != nil {
		return nil, err
	}
	oldest, err := layer(older, debianTar)
	if err != nil {
		return nil, err
	}
	boots, err := layer(revision{}, boot)
	if err != nil {
		return nil, err
	}
	var all []simulated
	for _, v := range revisions {
		u := simulated{name: v.name, layers: []converted{before, boots}}
		if u.layers[0], err = layer(v, debianTar); err != nil {
			return nil, err
		}
		if v.kernel {
			if u.layers[1], err = layer(v, boot); err != nil {
				return nil, err
			}
		}
		for from, has := range [][]converted{{before, boots}, {oldest, boots}, nil} {
			if u.plans[from], err = plans(ctx, u.layers, has); err != nil {
				return nil, err
			}
		}
		all = append(all, u)
	}
	return all, nil
}

// convertedLayer converts a layer as the product does for a kernel that reads zstd.
func convertedLayer(ctx context.Context, tar, dir string) (c converted, err error) {
	in, err := os.Open(tar)
	if err != nil {
		return c, err
	}
	defer in.Close()
	out, err := os.Create(filepath.Join(dir, "blob"))
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w, packed := verity.NewWriter(out), &length{}
	gz := gzip.NewWriter(packed)
	size, err := erofs.Convert(ctx, w, io.TeeReader(in, gz), erofs.Options{Compression: erofs.Zstd})
	if err != nil {
		return c, err
	}
	root, total, err := w.Finish(size)
	if err := errors.Join(err, gz.Close()); err != nil {
		return c, err
	}
	c.Layer, c.gzip, c.tree = layout.Layer{Size: size, RootHash: root}, packed.n, make([]byte, total-size)
	_, err = out.ReadAt(c.tree, size)
	return c, err
}

type length struct{ n int64 }

func (c *length) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// plans are those of the layers that are not there, made by the product.
func plans(ctx context.Context, layers, has []converted) (all []planned, err error) {
	here := map[string]bool{}
	var locals []blocks.Local
	for _, h := range has {
		here[h.RootHash] = true
		locals = append(locals, blocks.Local{Layer: h.Layer, ReaderAt: h})
	}
	for i, l := range layers {
		if here[l.RootHash] {
			continue
		}
		p, err := blocks.Look(ctx, l.Layer, l.remote, locals)
		if err != nil {
			return nil, err
		}
		all = append(all, planned{i, l, p})
	}
	return all, nil
}

// kinds are the nodes of a release, which join ranges in this way.
func (u simulated) kinds(j blocks.Joining) (all []crowd.Kind) {
	for from, plans := range u.plans {
		k := crowd.Kind{Share: shares[from]}
		for _, p := range plans {
			l := crowd.Layer{
				Blob: p.blob, Size: verity.TotalSize(p.Size), Tree: crowd.Range{Off: p.Size, N: int64(len(p.tree))},
			}
			for _, r := range p.Ranges(j) {
				l.Ranges = append(l.Ranges, crowd.Range(r))
			}
			k.Layers = append(k.Layers, l)
		}
		all = append(all, k)
	}
	return all
}

// wholes are the same nodes where a layer is fetched as its gzip.
func (u simulated) wholes() []crowd.Kind {
	all := u.kinds(blocks.Joined())
	for _, k := range all {
		for i, l := range k.Layers {
			k.Layers[i] = crowd.Layer{Blob: l.Blob, Size: u.layers[l.Blob].gzip}
		}
	}
	return all
}

// cost is what a node of the first kind asks for.
func costOf(k crowd.Kind) (requests int, bytes int64) {
	for _, l := range k.Layers {
		requests, bytes = requests+1+len(l.Ranges), bytes+l.Tree.N
		for _, r := range l.Ranges {
			bytes += r.N
		}
	}
	return requests, bytes
}

const megabit = 1e6 / 8

// crowdOf is what docs/scale.md assumes.
func crowdOf(nodes int, kinds []crowd.Kind) crowd.Config {
	server := crowd.Server{Line: 10_000 * megabit, PerSecond: 2000}
	return crowd.Config{
		Nodes: nodes, Kinds: kinds, Workers: blocks.Workers, Spread: 10 * time.Minute,
		// What a node asks for before the blobs: the tag, the image's manifest and config, the list of referrers, the
		// artifact and its record.
		Manifests: []crowd.Range{{N: 1000}, {N: 1500}, {N: 4000}, {N: 700}, {N: 1500}, {N: 1500}},
		RTT:       20 * time.Millisecond, Line: 100 * megabit,
		Registry: server, Cached: server, Upstream: 10 * time.Millisecond, Feed: 500 * megabit,
		Uploads: 4, Uplink: 100 * megabit,
	}
}

// lines are those of a node, from the data centre to the field.
var lines = []struct {
	name string
	rtt  time.Duration
	line float64
}{
	{"1 Gbit/s, 1 ms", time.Millisecond, 1000 * megabit},
	{"100 Mbit/s, 20 ms", 20 * time.Millisecond, 100 * megabit},
	{"20 Mbit/s, 80 ms", 80 * time.Millisecond, 20 * megabit},
}

// alone is how long one node takes that comes from the release before.
func (u simulated) alone(j blocks.Joining, workers int, rtt time.Duration, line float64) float64 {
	kinds := u.kinds(j)[:1]
	kinds[0].Share = 1
	c := crowdOf(1, kinds)
	c.Spread, c.Workers, c.RTT, c.Line = 0, workers, rtt, line
	return crowd.Run(c).Slowest.Seconds()
}

func table(head string, rows [][]string) string {
	var t strings.Builder
	columns := strings.Count(head, "|") + 1
	fmt.Fprintf(&t, "| %s |\n|---|%s\n", head, strings.Repeat("--:|", columns-1))
	for _, r := range rows {
		fmt.Fprintf(&t, "| %s |\n", strings.Join(r, " | "))
	}
	return t.String()
}

func releasesTable(ups []simulated) string {
	var rows [][]string
	for _, u := range ups {
		var blob, gzip, missing int64
		for _, p := range u.plans[0] {
			blob, gzip = blob+verity.TotalSize(p.Size), gzip+p.gzip
			for _, r := range p.Ranges(blocks.Joining{Longest: p.Size}) {
				missing += r.N
			}
		}
		row := []string{u.name}
		for _, n := range []int64{gzip, blob, missing} {
			row = append(row, fmt.Sprintf("%.1f", mb(n)))
		}
		for _, k := range u.kinds(blocks.Joined()) {
			requests, bytes := costOf(k)
			row = append(row, fmt.Sprintf("%d, %.1f", requests, mb(bytes)))
		}
		rows = append(rows, row)
	}
	return fmt.Sprintf("Made by %s from debian-trixie.tar and its boot layer.\n\n", runtime.Version()) +
		table("release | MB of gzip | MB of blobs | MB of blocks that are new |"+
			" requests, MB: from the release before | from an older one | from nothing", rows)
}

func gapsTable(ups []simulated) string {
	var rows [][]string
	for _, gap := range []int64{0, 4, 16, 32, 64, 128, 256, 512, 1024} {
		j := blocks.Joined()
		j.Gap = gap << 10
		name := fmt.Sprint(gap)
		if j == blocks.Joined() {
			name = "**" + name + "**"
		}
		row := []string{name}
		for _, u := range ups {
			requests, bytes := costOf(u.kinds(j)[0])
			row = append(row, fmt.Sprintf("%d, %.2f", requests, mb(bytes)))
		}
		for _, l := range lines {
			var each []string
			for _, u := range ups {
				each = append(each, fmt.Sprintf("%.2f", u.alone(j, blocks.Workers, l.rtt, l.line)))
			}
			row = append(row, strings.Join(each, ", "))
		}
		c := crowdOf(10_000, ups[1].kinds(j))
		c.Spread = 0
		rows = append(rows, append(row, fmt.Sprintf("%.0f", crowd.Run(c).Slowest.Seconds())))
	}
	head := "gap, KiB"
	for _, u := range ups {
		head += " | " + u.name + ": requests, MB"
	}
	for _, l := range lines {
		head += " | seconds at " + l.name
	}
	return table(head+" | updates, 10,000 at once: slowest, s", rows)
}

func cdnTable(ups []simulated) string {
	var rows [][]string
	for _, u := range ups {
		for _, a := range []struct {
			name    string
			joining func(*blocks.Joining)
		}{
			{"as the blocks are", func(*blocks.Joining) {}},
			{"at multiples of 64 KiB", func(j *blocks.Joining) { j.Align = 64 << 10 }},
			{"at multiples of 256 KiB", func(j *blocks.Joining) { j.Align = 256 << 10 }},
			{"at multiples of 1 MiB", func(j *blocks.Joining) { j.Align = crowd.MiB }},
			{"each MiB by itself", func(j *blocks.Joining) { j.Align, j.Longest = crowd.MiB, crowd.MiB }},
		} {
			j := blocks.Joined()
			a.joining(&j)
			kinds := u.kinds(j)
			requests, bytes := costOf(kinds[0])
			row := []string{u.name + ", " + a.name, fmt.Sprintf("%d, %.2f", requests, mb(bytes))}
			for _, cache := range []crowd.Cache{crowd.Exact, crowd.Slices} {
				c := crowdOf(10_000, kinds)
				c.Cache, c.Caches = cache, 50
				r := crowd.Run(c)
				row = append(row, fmt.Sprintf("%.2f %%, %d, %.2f", 100*float64(r.Hits)/float64(r.CacheRequests),
					r.Requests, mb(r.Bytes)/1000))
			}
			rows = append(rows, row)
		}
	}
	return table("release, ranges | a node: requests, MB | kept by range: hits, requests and GB of the registry |"+
		" kept by MiB: hits, requests and GB of the registry", rows)
}

func waysTable(ups []simulated) string {
	var rows [][]string
	for _, u := range ups {
		for _, w := range []struct {
			name  string
			kinds []crowd.Kind
			set   func(*crowd.Config)
		}{
			{"layers, registry", u.wholes(), func(*crowd.Config) {}},
			{"blocks, registry", u.kinds(blocks.Joined()), func(*crowd.Config) {}},
			{"layers, 4 pull-through mirrors", u.wholes(),
				func(c *crowd.Config) { c.Cache, c.Caches = crowd.PullThrough, 4 }},
			{"blocks, 4 pull-through mirrors, cold", u.kinds(blocks.Joined()),
				func(c *crowd.Config) { c.Cache, c.Caches = crowd.PullThrough, 4 }},
			{"the same, warmed", u.kinds(blocks.Joined()),
				func(c *crowd.Config) { c.Cache, c.Caches, c.Warm = crowd.PullThrough, 4, true }},
			{"blocks, 4 mirrors that fill once", u.kinds(blocks.Joined()),
				func(c *crowd.Config) { c.Cache, c.Caches = crowd.Whole, 4 }},
			{"blocks, 50 places of a CDN, by MiB", u.kinds(blocks.Joined()),
				func(c *crowd.Config) { c.Cache, c.Caches = crowd.Slices, 50 }},
			{"layers, peers", u.wholes(), func(c *crowd.Config) { c.Peers = true }},
			{"blocks, peers", u.kinds(blocks.Joined()), func(c *crowd.Config) { c.Peers = true }},
		} {
			c := crowdOf(10_000, w.kinds)
			w.set(&c)
			r := crowd.Run(c)
			hottest := int64(0)
			if len(r.Heat) > len(c.Manifests) {
				hottest = r.Heat[len(c.Manifests)] // behind what each node asks for once
			}
			rows = append(rows, []string{
				u.name + ": " + w.name,
				fmt.Sprint(r.Requests), fmt.Sprintf("%.1f", mb(r.Bytes)/1000), fmt.Sprint(r.Peak), fmt.Sprint(hottest),
				fmt.Sprintf("%.1f", mb(r.Fetched)/1000),
				fmt.Sprintf("%.1f", r.Median.Seconds()), fmt.Sprintf("%.0f", r.Slowest.Seconds()),
			})
		}
	}
	return table("release: what is fetched, by what way | requests to the registry | GB of it |"+
		" in its busiest second | its hottest MiB | GB to nodes | median, s | slowest, s", rows)
}

func workersTable(ups []simulated) string {
	var rows [][]string
	for _, workers := range []int{1, 2, 4, 8, 16} {
		name := fmt.Sprint(workers)
		if workers == blocks.Workers {
			name = "**" + name + "**"
		}
		row := []string{name}
		for _, l := range lines {
			var each []string
			for _, u := range ups {
				each = append(each, fmt.Sprintf("%.2f", u.alone(blocks.Joined(), workers, l.rtt, l.line)))
			}
			row = append(row, strings.Join(each, ", "))
		}
		for _, spread := range []time.Duration{0, 10 * time.Minute} {
			c := crowdOf(10_000, ups[1].kinds(blocks.Joined()))
			c.Workers, c.Spread = workers, spread
			r := crowd.Run(c)
			row = append(row, fmt.Sprintf("%.0f, %.0f", r.Median.Seconds(), r.Slowest.Seconds()))
		}
		rows = append(rows, row)
	}
	head := "at a time"
	for _, l := range lines {
		head += " | seconds at " + l.name
	}
	return table(head+" | updates, 10,000 at once: median, slowest, s | 10,000 within 10 min", rows)
}

func spreadTable(ups []simulated) string {
	var rows [][]string
	for _, u := range ups {
		for _, spread := range []time.Duration{0, time.Minute, 10 * time.Minute, time.Hour} {
			c := crowdOf(10_000, u.kinds(blocks.Joined()))
			c.Spread = spread
			r := crowd.Run(c)
			rows = append(rows, []string{
				fmt.Sprintf("%s, %.0f min", u.name, spread.Minutes()), fmt.Sprint(r.Peak),
				fmt.Sprintf("%.1f", r.Median.Seconds()), fmt.Sprintf("%.0f", r.Slowest.Seconds()),
				fmt.Sprintf("%.1f", r.Last.Minutes()),
			})
		}
	}
	return table("release, begun within | busiest second, requests | median, s | slowest, s |"+
		" the last is done after, min", rows)
}
