package exporter

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki"
)

// The record is in the format that the image's own /init reads: one of an older boot layer reads the first only.
func TestRecordFitsTheInit(t *testing.T) {
	tree := boottest.Tree(kernel)
	for _, reads := range []int{0, layout.ReleaseSchema} {
		files := bootFiles(t, tree, boot.Options{})
		m, err := boot.ParseManifest(files[layout.ImageBootManifest].Data)
		if err != nil {
			t.Fatal(err)
		}
		m.Release = reads
		files[layout.ImageBootManifest] = text(string(m.Marshal()))
		labels := map[string]string{layout.ImageLabelEpoch: "4"}
		img := imageOf(t, labels, layerOf(t, tree), layerOf(t, files))
		img.Manifest.Digest = digest.Digest(img.ConfigDigest)
		p, err := prepare(t.Context(), img, Options{Cache: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		r := p.release()
		if r.Image != "" || r.Manifest != "" {
			t.Errorf("a medium's release depends on where its image was: %+v", r)
		}
		sum, err := uki.Authenticode(files[layout.ImageUKI].Data)
		if err != nil {
			t.Fatal(err)
		}
		v2 := !r.V1 && r.Epoch == 4 && r.UKI == layout.SHA256(sum) &&
			r.Format == (layout.Format{Compression: "zstd", Version: erofs.FormatVersion})
		v1 := r.V1 && r.Epoch == 0 && r.UKI == "" && r.Format == (layout.Format{})
		if reads == layout.ReleaseSchema && !v2 || reads == 0 && !v1 {
			t.Errorf("an /init that reads %d: %+v", reads, r)
		}
		if _, err := r.Marshal(); err != nil {
			t.Error(err)
		}
	}
}
