package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// upgradePair is two images of one system.
type upgradePair struct {
	pair
	from, to testImage
	*place
}

// place is where the images are, and what was made of them beforehand.
type place struct {
	self     string // this program
	dir      string
	registry *wire
	chunks   *wire // of the folder chunks
}

// way is how the second image comes to who has the first.
type way struct {
	name string
	// begin makes what who has the first image has in a folder, and returns the commands that are measured.
	begin func(ctx context.Context, u *upgradePair, dir string) ([][]string, error)
	wire  func(*upgradePair) *wire
}

func throughRegistry(u *upgradePair) *wire { return u.registry }

// ways are what an upgrade is measured with.
func ways() []way {
	ours := func(name, how string) way {
		return way{name, func(ctx context.Context, u *upgradePair, dir string) ([][]string, error) {
			var err error
			if u.pair.from != "" {
				err = linkTree(u.from.path("state"), filepath.Join(dir, "state"))
			}
			return [][]string{{u.self, "stage", how, u.to.ref, dir}}, err
		}, throughRegistry}
	}
	return []way{
		{"gzip layers that changed, unpacked", unpackChanged, throughRegistry},
		{"zstd:chunked, containers/storage", pullChunked, throughRegistry},
		{"casync chunks of the EROFS images, desync", extractChunks, func(u *upgradePair) *wire { return u.chunks }},
		ours("Kairos, without a release: gzip layers, converted", byConvert),
		ours("Kairos, the release by layer", byLayer),
		ours("Kairos, the release by block", byBlock),
	}
}

// pairsOfImages measures what an upgrade costs a node, from a registry on loopback.
func (b *bench) pairsOfImages(ctx context.Context) (err error) {
	for _, script := range []string{"scripts/registry", "scripts/bench-peers", "scripts/bench-upgrades"} {
		if _, err := process(ctx, "", script); err != nil {
			return err
		}
	}
	p := place{}
	if p.self, err = os.Executable(); err != nil {
		return err
	}
	if p.dir, err = filepath.Abs(filepath.Join(b.dir, "upgrades")); err != nil {
		return err
	}
	if !b.keep {
		if err := os.RemoveAll(p.dir); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(p.dir)) }()
	}
	var stop func()
	if p.registry, stop, err = startRegistry(ctx, filepath.Join(p.dir, "registry")); err != nil {
		return err
	}
	defer stop()
	if err := os.MkdirAll(filepath.Join(p.dir, "chunks/store"), 0o755); err != nil {
		return err
	}
	if p.chunks, stop, err = serveFiles(filepath.Join(p.dir, "chunks")); err != nil {
		return err
	}
	defer stop()
	pairs, err := b.pairs(p.dir)
	if err != nil {
		return err
	}
	images := map[string]testImage{}
	for _, pair := range pairs {
		for _, base := range []string{pair.from, pair.to} {
			if _, ok := images[base]; ok || base == "" {
				continue
			}
			if images[base], err = p.newImage(ctx, base); err != nil {
				return fmt.Errorf("%s: %w", base, err)
			}
		}
	}
	var t strings.Builder
	fmt.Fprintf(&t, "Medians of %d, each way in its turn. %s.\n", b.runs, machine())
	for _, pair := range pairs {
		rows, err := b.measure(ctx, &upgradePair{pair, images[pair.from], images[pair.to], &p})
		if err != nil {
			return fmt.Errorf("%s: %w", pair.name, err)
		}
		fmt.Fprintf(&t, "\n%s\n\n%s", pair.what, rows)
		if err := b.replace("upgrades", t.String()); err != nil {
			return err
		}
	}
	return nil
}

// newImage pushes an image of a base in each form, and makes what a node has of it.
func (p *place) newImage(ctx context.Context, base string) (img testImage, err error) {
	name := strings.TrimSuffix(filepath.Base(base), ".tar")
	img.dir, img.ref = filepath.Join(p.dir, name), p.registry.addr+"/os:"+name
	bootTar, versionTar := img.path("boot.tar"), img.path("version.tar")
	if _, err := os.Stat(img.path("done")); err == nil {
		return img, img.find(ctx, base, bootTar, versionTar)
	}
	if err := os.MkdirAll(img.dir, 0o755); err != nil {
		return img, err
	}
	if err := versionLayer(versionTar, name); err != nil {
		return img, err
	}
	// By another process: what this one has in memory would count as theirs, when it starts them.
	if _, err := process(ctx, "", p.self, "boot-layer", base, bootTar); err != nil {
		return img, err
	}
	if err := img.push(ctx, base, bootTar, versionTar); err != nil {
		return img, err
	}
	cache := filepath.Join(p.dir, "layers")
	for _, args := range [][]string{
		{"build/bin/kairos", "release", "--cache", cache, img.ref},
		{p.self, "stage", byLayer, img.ref, img.dir},
		{peers + "zstdchunked", "push", img.ref, chunked(img.ref)},
	} {
		if _, err := process(ctx, "", args...); err != nil {
			return img, err
		}
	}
	for _, l := range img.layers {
		image := l.name(filepath.Join(p.dir, "chunks"))
		if _, err := os.Stat(image); err == nil {
			continue
		}
		for _, args := range [][]string{
			{p.self, "convert", "none", l.tar, image},
			{peers + "desync", "make", "--store", filepath.Join(p.dir, "chunks/store"), image + ".caibx", image},
		} {
			if _, err := process(ctx, "", args...); err != nil {
				return img, err
			}
		}
	}
	return img, os.WriteFile(img.path("done"), nil, 0o644)
}

// chunked is the name of an image whose layers are zstd:chunked.
func chunked(ref string) string { return ref + "-chunked" }

// measure returns the table of an upgrade.
func (b *bench) measure(ctx context.Context, u *upgradePair) (string, error) {
	all := ways()
	taken := make([][]cost, len(all))
	for range b.runs {
		for i, w := range all {
			c, err := w.run(ctx, u)
			if err != nil {
				return "", fmt.Errorf("%s: %w", w.name, err)
			}
			fmt.Fprintf(os.Stderr, "%s, %s: %+v\n", u.name, w.name, c)
			taken[i] = append(taken[i], c)
		}
	}
	var t strings.Builder
	t.WriteString("| way | MB down | of the first | MB written | CPU seconds | seconds | peak MB |\n" +
		"|---|--:|--:|--:|--:|--:|--:|\n")
	of := func(runs []cost, number func(cost) float64) float64 {
		var all []float64
		for _, c := range runs {
			all = append(all, number(c))
		}
		return median(all)
	}
	down := func(c cost) float64 { return float64(c.down) }
	for i, w := range all {
		fmt.Fprintf(&t, "| %s | %.2f | %.3f | %.1f | %.2f | %.2f | %.0f |\n", w.name,
			of(taken[i], down)/1e6, of(taken[i], down)/of(taken[0], down),
			of(taken[i], func(c cost) float64 { return float64(c.written) })/1e6,
			of(taken[i], func(c cost) float64 { return c.cpu }),
			of(taken[i], func(c cost) float64 { return c.seconds }),
			of(taken[i], func(c cost) float64 { return float64(c.memory) })/1e6)
	}
	return t.String(), nil
}

func (w way) run(ctx context.Context, u *upgradePair) (total cost, err error) {
	dir := filepath.Join(u.dir, "work")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return total, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	commands, err := w.begin(ctx, u, dir)
	if err != nil {
		return total, err
	}
	through := w.wire(u)
	before := through.settled()
	for _, args := range commands {
		c, err := process(ctx, "", args...)
		if err != nil {
			return total, err
		}
		total = total.and(c)
	}
	total.down = through.settled() - before
	return total, nil
}

// changed are the layers of the second image that the first has not.
func (u *upgradePair) changed() (all []testLayer) {
	has := map[string]bool{}
	for _, l := range u.from.layers {
		has[l.blob.Digest.String()] = true
	}
	for _, l := range u.to.layers {
		if !has[l.blob.Digest.String()] {
			all = append(all, l)
		}
	}
	return all
}

func unpackChanged(_ context.Context, u *upgradePair, dir string) ([][]string, error) {
	args := []string{u.self, "unpack", dir}
	for _, l := range u.changed() {
		args = append(args, "http://"+u.registry.addr+"/v2/os/blobs/"+l.blob.Digest.String())
	}
	return [][]string{args}, nil
}

func pullChunked(ctx context.Context, u *upgradePair, dir string) ([][]string, error) {
	var err error
	if u.pair.from != "" {
		_, err = process(ctx, "", peers+"zstdchunked", "pull", chunked(u.from.ref), dir)
	}
	return [][]string{{peers + "zstdchunked", "pull", chunked(u.to.ref), dir}}, err
}

// extractChunks has the layers of the first image, as EROFS images that are not compressed, give their chunks.
func extractChunks(_ context.Context, u *upgradePair, dir string) (commands [][]string, err error) {
	for _, l := range u.changed() {
		args := []string{peers + "desync", "extract", "--store", "http://" + u.chunks.addr + "/store"}
		for _, seed := range u.from.layers {
			args = append(args, "--seed", seed.name(filepath.Join(u.dir, "chunks"))+".caibx")
		}
		commands = append(commands, append(args, l.name("http://"+u.chunks.addr)+".caibx", l.name(dir)))
	}
	return commands, nil
}

// linkTree copies a folder; its files are the same.
func linkTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		return os.Link(path, filepath.Join(to, rel))
	})
}
