package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/internal/imagevm"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	"github.com/kairos-buildkit/kairos/layout"
)

var (
	initrdBegins = regexp.MustCompile(`kairos: booting `)
	loginPrompt  = regexp.MustCompile(` login: `)
)

// boots measures how long the Debian example takes from its initrd to its login prompt, by the
// compression of its layers.
func (b *bench) boots(ctx context.Context) error {
	dir := filepath.Join(b.dir, "boot")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	kinds := []string{"none", "lz4", "zstd"}
	for _, kind := range kinds {
		if _, err := process(ctx, "", "build/bin/kairos", "build", "--root", "build/state",
			"--label", layout.ImageLabelCompression+"="+kind,
			"--label", layout.ImageLabelCmdline+"="+vmtest.RootShellCmdline,
			"--build-context", "debian:trixie=oci-layout://build/base/debian-trixie",
			"--output", "type=iso,dest="+filepath.Join(dir, kind+".iso"), "examples/debian"); err != nil {
			return err
		}
	}
	// In turns, so that what slows the machine down for a while slows all of them.
	taken := map[string][]float64{}
	for range b.runs {
		for _, kind := range kinds {
			s, err := bootTime(ctx, filepath.Join(dir, kind+".iso"))
			if err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
			taken[kind] = append(taken[kind], s.Seconds())
		}
	}
	var t strings.Builder
	fmt.Fprintf(&t, "Input: examples/debian. Medians of %d. QEMU without KVM on %s.\n\n", b.runs, machine())
	t.WriteString("| layers | MB of ISO | initrd to login prompt, s | of uncompressed |\n|---|--:|--:|--:|\n")
	for _, kind := range kinds {
		info, err := os.Stat(filepath.Join(dir, kind+".iso"))
		if err != nil {
			return err
		}
		fmt.Fprintf(
			&t,
			"| %s | %.1f | %.1f | %.3f |\n",
			kind,
			mb(info.Size()),
			median(taken[kind]),
			median(taken[kind])/median(taken["none"]),
		)
	}
	return b.replace("boot", t.String())
}

// bootTime boots an ISO and returns the time from its initrd's first line to its login prompt.
func bootTime(ctx context.Context, iso string) (time.Duration, error) {
	console, off, err := vmtest.PowerOn(ctx, imagevm.Live(iso), io.Discard)
	if err != nil {
		return 0, err
	}
	defer off()
	if _, err := console.Expect(initrdBegins, vmtest.BootTimeout); err != nil {
		return 0, err
	}
	begin := time.Now()
	_, err = console.Expect(loginPrompt, vmtest.BootTimeout)
	return time.Since(begin), err
}
