package exporter

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
)

// readAbility looks in the layers' tars, the highest first, for what says which compression the
// image's kernel reads, and returns "" where none does. It is a guess, since what one layer has
// another may replace: the merged tree has the last word. What is read stops where the answer
// is, which is in /boot as a rule and so near a tar's beginning.
func (p *prepared) readAbility(ctx context.Context) (string, error) {
	done := p.options.step("looking for the kernel's abilities")
	for i := len(p.Layers) - 1; i >= 0; i-- {
		r, err := p.Layers[i].Open(ctx)
		if err != nil {
			return "", done(err)
		}
		can, err := abilityIn(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return "", done(err)
		}
		if can != "" {
			return can, done(nil)
		}
	}
	return "", done(nil)
}

// abilityIn returns what a layer's tar says, or "".
func abilityIn(r io.Reader) (string, error) {
	best, newest := "", ""
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF || err != nil && best != "" {
			return best, nil
		}
		if err != nil {
			return "", nil //nolint:nilerr // the conversion says it better
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if best != "" && !strings.HasPrefix(name, "boot/") {
			return best, nil
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		version, isConfig := strings.CutPrefix(name, "boot/config-")
		if dir, base := path.Split(name); !isConfig && base == "config" &&
			strings.HasSuffix(path.Dir(path.Clean(dir)), "lib/modules") {
			version, isConfig = path.Base(dir), true
		}
		if !isConfig && name != layout.ImageBootManifest {
			continue
		}
		b, err := bounded.ReadAll(t, maxText)
		if err != nil {
			return best, nil //nolint:nilerr // what is that large is no configuration
		}
		if !isConfig {
			if m, err := boot.ParseManifest(b); err == nil && layout.CompressionRank(m.Kernel.Compression) >= 0 {
				return m.Kernel.Compression, nil
			}
			continue
		}
		if best == "" || boot.CompareVersions(version, newest) > 0 {
			best, newest = boot.ParseConfig(b).Compression(), version
		}
	}
}
