package root

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
)

// sysBlock lists the block devices.
const sysBlock = "/sys/block"

// Check reads all layers of a release that is mounted from their first byte to their last, through dm-verity, and says
// how far it is. An error names the layer that is damaged.
func Check(r layout.Release, say func(format string, args ...any)) error {
	return check(sysBlock, "/dev", r, say)
}

func check(sys, dev string, r layout.Release, say func(format string, args ...any)) error {
	var total, done int64
	for _, l := range r.Layers {
		total += l.Size
	}
	buf := make([]byte, 1<<20)
	for n, l := range r.Layers {
		fail := func(err error) error {
			return fmt.Errorf("the medium is damaged: layer %d of %d (%s): %w: write it again, or use another one",
				n+1, len(r.Layers), l.DiffID.Hex()[:12], err)
		}
		name, err := mapped(sys, devicePrefix+strconv.Itoa(n))
		if err != nil {
			return fail(err)
		}
		f, err := os.Open(filepath.Join(dev, name))
		if err != nil {
			return fail(err)
		}
		size, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf)
		f.Close()
		if err == nil && size < l.Size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fail(err)
		}
		done += l.Size
		say("checking the medium: %d of %d MiB are good", done>>20, total>>20)
	}
	return nil
}

// mapped returns the device that the kernel's device mapper has under a name.
func mapped(sys, name string) (string, error) {
	devices, err := filepath.Glob(filepath.Join(sys, "dm-*"))
	if err != nil {
		return "", err
	}
	for _, d := range devices {
		if b, err := os.ReadFile(filepath.Join(d, "dm", "name")); err == nil && strings.TrimSpace(string(b)) == name {
			return filepath.Base(d), nil
		}
	}
	return "", fmt.Errorf("device %s: %w", name, os.ErrNotExist)
}
