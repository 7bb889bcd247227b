package exporter

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/layout"
)

// The format is a property of the image: who converts believes the label, and looks at the kernel
// only to see whether it still fits.
func TestFormatLabel(t *testing.T) {
	old := fstest.MapFS{}
	for name, f := range boottest.Tree(kernel) {
		old[name] = f
	}
	old["boot/config-"+kernel] = text("CONFIG_EROFS_FS=m\nCONFIG_EROFS_FS_ZIP=y\n")
	for name, c := range map[string]struct {
		tree    fstest.MapFS
		label   string
		want    erofs.Compression
		warning bool
		opened  int
	}{
		"as the kernel reads":       {boottest.Tree(kernel), "zstd-0-v2", erofs.Zstd, false, 1},
		"less than it could":        {boottest.Tree(kernel), "lz4-0-v2", erofs.LZ4, false, 1},
		"more than the kernel does": {old, "zstd-0-v2", erofs.LZ4, true, 2},
		"another converter's":       {old, "lz4-0-v9", erofs.LZ4, false, 1},
		"none":                      {old, "", erofs.LZ4, false, 1}, // the boot layer says it
	} {
		base, top := layerOf(t, c.tree), layerOf(t, bootFiles(t, c.tree, boot.Options{}))
		labels := map[string]string{}
		if c.label != "" {
			labels[layout.ImageLabelFormat] = c.label
		}
		var warnings []string
		o := Options{Cache: t.TempDir(), Warn: func(s string) { warnings = append(warnings, s) }}
		p, err := prepare(t.Context(), imageOf(t, labels, base, top), o)
		if err != nil {
			t.Fatal(err)
		}
		for _, tree := range p.trees {
			if got := tree.(*erofs.FS).Compression(); got != c.want {
				t.Errorf("%s: %s, want %s", name, got, c.want)
			}
		}
		p.Close()
		if got := strings.Contains(strings.Join(warnings, " "), "does not read the format"); got != c.warning {
			t.Errorf("%s: warnings %q", name, warnings)
		}
		if base.opened != c.opened {
			t.Errorf("%s: the base was read %d times, want %d", name, base.opened, c.opened)
		}
	}
}

// A layer that does not name the directories above its files does not change them: the release has
// one layer more, which says what they are, and the image is the same.
func TestImpliedDirectoriesAreSetRight(t *testing.T) {
	tree := boottest.Tree(kernel)
	tree["var"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	tree["var/tmp"] = &fstest.MapFile{Mode: fs.ModeDir | fs.ModeSticky | 0o777}
	base, top := layerOf(t, tree), layerOf(t, bootFiles(t, tree, boot.Options{}))
	var late bytes.Buffer
	w := tar.NewWriter(&late)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "var/tmp/x", Mode: 0o644}), w.Close()); err != nil {
		t.Fatal(err)
	}
	img := imageOf(t, nil, base, top, &testLayer{Layer: layerOfTar(late.Bytes())})
	p, err := prepare(t.Context(), img, Options{Cache: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	info, err := fs.Stat(p.root, "var/tmp")
	if err != nil || info.Mode() != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("/var/tmp is %v, %v", info.Mode(), err)
	}
	if r := p.release(); len(r.Layers) != 4 || r.Config != img.ConfigDigest {
		t.Errorf("release %+v", r)
	}
}
