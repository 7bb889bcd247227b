package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/kairos-buildkit/kairos/exporter"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/internal/imagevm"
	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	"github.com/kairos-buildkit/kairos/layout"
)

// layers measures what a layer more costs at boot: the Debian example, in as few layers as its build makes, and
// with small layers above it until it has as many as b.counts says. The machine's clock counts instructions, so that
// the bounds of some percent can be told from what else the host does.
func (b *bench) layers(ctx context.Context) error {
	dir := filepath.Join(b.dir, "layers")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	example, oci := filepath.Join(dir, "example"), filepath.Join(dir, "image")
	if err := exampleThatSaysWhen(example); err != nil {
		return err
	}
	if _, err := process(ctx, "", "build/bin/kairos", "build", "--root", "build/state",
		"--label", layout.ImageLabelCmdline+"="+vmtest.RootShellCmdline,
		"--build-context", "debian:trixie=oci-layout://build/base/debian-trixie",
		"--output", "type=oci,tar=false,dest="+oci, example); err != nil {
		return err
	}
	ref, err := source.Parse("oci-layout:" + oci)
	if err != nil {
		return err
	}
	img, err := source.Open(ctx, ref, source.Options{})
	if err != nil {
		return err
	}
	defer img.Close()
	for _, n := range b.counts {
		if err := layeredISO(ctx, layeredName(dir, n), img.Image, n, filepath.Join(dir, "cache")); err != nil {
			return fmt.Errorf("%d layers: %w", n, err)
		}
	}
	taken, mu := map[int][]float64{}, sync.Mutex{}
	beside, ctx := errgroup.WithContext(ctx) // their clocks do not mind
	beside.SetLimit(runtime.NumCPU())
	for range b.runs {
		for _, n := range b.counts {
			beside.Go(func() error {
				s, err := countedBoot(ctx, layeredName(dir, n))
				if err != nil {
					return fmt.Errorf("%d layers: %w", n, err)
				}
				fmt.Fprintf(os.Stderr, "%d layers: %.1f s\n", n, s)
				mu.Lock()
				defer mu.Unlock()
				taken[n] = append(taken[n], s)
				return nil
			})
		}
	}
	if err := beside.Wait(); err != nil {
		return err
	}
	var t strings.Builder
	first := b.counts[0]
	fmt.Fprintf(&t, "Input: examples/debian and small layers above it. Medians of %d. QEMU without KVM, whose clock "+
		"counts instructions, two nanoseconds each.\n\n", b.runs)
	fmt.Fprintf(&t, "| layers | initrd to login prompt, s | of %d layers |\n|--:|--:|--:|\n", first)
	for _, n := range b.counts {
		fmt.Fprintf(&t, "| %d | %.1f | %.3f |\n", n, median(taken[n]), median(taken[n])/median(taken[first]))
	}
	return b.replace("layers", t.String())
}

func layeredName(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("%d.iso", n)) }

// A unit that is started with the login prompt, when all else has been, and says how long the machine has run.
const (
	upUnit     = "rootfs/etc/systemd/system/bench-up.service"
	upWanted   = "rootfs/etc/systemd/system/multi-user.target.wants/bench-up.service"
	upUnitText = `[Unit]
After=serial-getty@ttyS0.service
[Service]
Type=idle
ExecStart=/bin/sh -c 'read up idle </proc/uptime; echo "bench: up $up" >/dev/console'
`
)

// exampleThatSaysWhen copies examples/debian, with that unit.
func exampleThatSaysWhen(dir string) error {
	err := os.CopyFS(dir, os.DirFS("examples/debian"))
	for _, name := range []string{upUnit, upWanted} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
	}
	return errors.Join(err, os.WriteFile(filepath.Join(dir, upUnit), []byte(upUnitText), 0o644),
		os.Symlink("../bench-up.service", filepath.Join(dir, upWanted)))
}

var (
	initrdBegan = regexp.MustCompile(`\[ *([0-9.]+)\] Run /init as init process`)
	machineIsUp = regexp.MustCompile(`bench: up ([0-9.]+)`)
)

// countedBoot boots an ISO and returns the seconds from the start of its initrd to its login prompt, by its clock.
func countedBoot(ctx context.Context, iso string) (float64, error) {
	m := imagevm.Live(iso)
	m.Accel = qemu.Counted
	console, off, err := vmtest.PowerOn(ctx, m, io.Discard)
	if err != nil {
		return 0, err
	}
	defer off()
	var at [2]float64
	for i, what := range []*regexp.Regexp{initrdBegan, machineIsUp} {
		found, err := console.Expect(what, countedTimeout)
		if err != nil {
			return 0, err
		}
		if at[i], err = strconv.ParseFloat(found[1], 64); err != nil {
			return 0, err
		}
	}
	return at[1] - at[0], nil
}

// countedTimeout is for a busy host, and for hundreds of layers.
const countedTimeout = time.Hour

// layeredISO writes a live ISO of an image with so many layers that it has n.
func layeredISO(ctx context.Context, path string, img image.Image, n int, cache string) error {
	// What is appended to is the caller's for the next one.
	img.Layers = append([]image.Layer(nil), img.Layers...)
	img.Config.RootFS.DiffIDs = append([]digest.Digest(nil), img.Config.RootFS.DiffIDs...)
	img.Config.History = append([]ocispec.History(nil), img.Config.History...)
	if len(img.Layers) > n {
		return fmt.Errorf("the image has %d", len(img.Layers))
	}
	for i := len(img.Layers); i < n; i++ {
		layer, err := smallLayer(i)
		if err != nil {
			return err
		}
		id := digest.FromBytes(layer)
		img.Layers = append(img.Layers, image.Layer{
			DiffID: layout.Digest(id),
			Open:   func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil },
		})
		img.Config.RootFS.DiffIDs = append(img.Config.RootFS.DiffIDs, id)
		img.Config.History = append(img.Config.History, ocispec.History{Created: img.Config.Created})
	}
	config, err := json.Marshal(img.Config)
	if err != nil {
		return err
	}
	img.ConfigDigest = layout.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(config)))
	img.Manifest = ocispec.Descriptor{}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(exporter.ISO(ctx, out, img, exporter.Options{Cache: cache}), out.Close())
}

// smallLayer returns what a step of a Dockerfile leaves behind that installs a little program: files where the
// system looks for others, too, so that the kernel looks into each layer.
func smallLayer(n int) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	text := strings.Repeat(fmt.Sprintf("program %d\n", n), 200)
	for _, h := range []tar.Header{
		{Name: "usr/", Mode: 0o755, Typeflag: tar.TypeDir},
		{Name: "usr/lib/", Mode: 0o755, Typeflag: tar.TypeDir},
		{Name: fmt.Sprintf("usr/lib/libprogram%d.so", n), Mode: 0o644, Size: int64(len(text))},
		{Name: "usr/bin/", Mode: 0o755, Typeflag: tar.TypeDir},
		{Name: fmt.Sprintf("usr/bin/program%d", n), Mode: 0o755, Size: int64(len(text))},
		{Name: "etc/", Mode: 0o755, Typeflag: tar.TypeDir},
		{Name: fmt.Sprintf("etc/program%d.conf", n), Mode: 0o644, Size: int64(len(text))},
	} {
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, text[:h.Size]); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}
