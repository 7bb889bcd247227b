package exporter

import (
	"bytes"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
)

// onMedium writes a medium to a file and opens the image on it.
func onMedium(t *testing.T, kind source.Kind, b []byte) image.Image {
	t.Helper()
	name := filepath.Join(t.TempDir(), "medium")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return openMedium(t, kind, name)
}

func openMedium(t *testing.T, kind source.Kind, name string) image.Image {
	t.Helper()
	img, err := source.Open(t.Context(), source.Ref{Kind: kind, Name: name}, source.Options{Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img.Image
}

// remasterable is an image with labels.
func remasterable(t *testing.T) image.Image {
	base, user, bootLayer := bootable(t)
	img := imageOf(t, map[string]string{
		layout.ImageLabelFormat: "zstd-0-v3", "io.kairos.test": "1", "other": "label",
	}, base, user, bootLayer)
	return img
}

// exportFile writes a medium to a file, with holes, and returns its digest.
func exportFile(t *testing.T, img image.Image, f Format, o Options) (name, sum string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "medium")
	sum, err := WriteFile(name, func(w io.Writer) error { return Export(t.Context(), w, img, f, o) })
	if err != nil {
		t.Fatal(err)
	}
	return name, sum
}

// A medium is re-mastered without the image that it came from: the same options give the same bytes, whatever the
// medium was, and another config changes the config alone.
func TestRemaster(t *testing.T) {
	img := remasterable(t)
	o := Options{CloudConfig: []byte("#cloud-config\ninstall:\n  partitions:\n    efi: {size: 48}\n")}
	files, sums := map[Format]string{}, map[Format]string{}
	for _, f := range Formats() {
		files[f], sums[f] = exportFile(t, img, f, o)
	}
	for _, way := range []struct{ from, to Format }{
		{FormatISO, FormatISO}, {FormatISO, FormatRaw}, {FormatRaw, FormatQCOW2}, {FormatQCOW2, FormatISO},
	} {
		kind := source.Disk
		if way.from == FormatISO {
			kind = source.ISO
		}
		again := openMedium(t, kind, files[way.from])
		if again.ConfigDigest != img.ConfigDigest || again.Version() != "v1.2.3" || len(again.Layers) != 3 {
			t.Errorf("%s: image %+v", way.from, again)
		}
		if _, sum := exportFile(t, again, way.to, o); sum != sums[way.to] {
			t.Errorf("%s from %s: other bytes than from the image", way.to, way.from)
		}
	}

	iso := openMedium(t, source.ISO, files[FormatISO])
	b, err := os.ReadFile(files[FormatISO])
	if err != nil {
		t.Fatal(err)
	}
	was := mediumFiles(t, b)
	now := mediumFiles(t, export(t, iso, FormatISO, Options{CloudConfig: []byte("#cloud-config\nhostname: two\n")}))
	if now[layout.LiveCloudConfig] != "#cloud-config\nhostname: two\n" {
		t.Errorf("config %q", now[layout.LiveCloudConfig])
	}
	// eltorito.img and grub's files know places on the medium.
	for _, files := range []map[string]string{was, now} {
		delete(files, layout.LiveCloudConfig)
		delete(files, "boot/grub/eltorito.img")
	}
	if !maps.Equal(was, now) {
		t.Error("with another config other files are others, too")
	}
	if none := mediumFiles(t, export(t, iso, FormatISO, Options{})); none[layout.LiveCloudConfig] != "" {
		t.Error("a config is on the medium that nobody gave")
	}
}

// A layer that sets others right is on the medium, and is not made twice.
func TestRemasterWithFixUp(t *testing.T) {
	base, _, bootLayer := bootable(t)
	implied := layerOfNames(t, "etc/implied", "usr/lib/implied")
	img := imageOf(t, nil, base, bootLayer, implied)
	iso := export(t, img, FormatISO, Options{})
	again := onMedium(t, source.ISO, iso)
	if len(again.Layers) != 4 {
		t.Fatalf("%d layers on the medium, want one more than the image's 3", len(again.Layers))
	}
	if got := export(t, again, FormatISO, Options{}); !bytes.Equal(got, iso) {
		t.Error("other bytes")
	}
}

// A config that changes the command line makes other boot files, from what is on the medium.
func TestRemasterWithOtherCommandLine(t *testing.T) {
	img := remasterable(t)
	o := Options{CloudConfig: []byte("#cloud-config\ninstall:\n  partitions:\n    efi: {size: 48}\n" +
		"  grub_options:\n    extra_cmdline: \"quiet\"\n")}
	_, want := exportFile(t, img, FormatQCOW2, o)
	plain, _ := exportFile(t, img, FormatISO, Options{})
	if _, got := exportFile(t, openMedium(t, source.ISO, plain), FormatQCOW2, o); got != want {
		t.Error("other bytes")
	}
}

// A damaged medium is found out before anything of it is taken over.
func TestRemasterDamaged(t *testing.T) {
	img := remasterable(t)
	iso := export(t, img, FormatISO, Options{})
	at := bytes.Index(iso, []byte("hello\n")) // of /etc/motd, in its layer's blob
	if at < 0 {
		t.Fatal("the file is not on the medium as it is")
	}
	iso[at] ^= 1
	var out bytes.Buffer
	err := Export(t.Context(), &out, onMedium(t, source.ISO, iso), FormatISO, Options{})
	if err == nil || !strings.Contains(err.Error(), "the medium is damaged") || out.Len() > 0 {
		t.Errorf("%v, after %d bytes", err, out.Len())
	}
}

// layerOfNames is a layer with files whose folders it does not name.
func layerOfNames(t *testing.T, names ...string) *testLayer {
	t.Helper()
	tree := fstest.MapFS{}
	for _, n := range names {
		tree[n] = text("x")
	}
	return layerOfTree(t, tree, false)
}
