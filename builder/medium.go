package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/util/compression"
	"github.com/moby/buildkit/util/progress"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/erofs"
	media "github.com/kairos-buildkit/kairos/exporter"
	"github.com/kairos-buildkit/kairos/frontend/bootlayer"
	"github.com/kairos-buildkit/kairos/image"
)

// Formats lists the formats of media, the values of format= and of type=.
func Formats() []string {
	var names []string
	for _, f := range media.Formats() {
		names = append(names, string(f))
	}
	return names
}

// Medium is what the attributes of an output ask for.
type Medium struct {
	Format string
	media.Options
	image containerimage.ImageCommitOpts
}

// MediumAttrs are the attributes that an output of a format has, besides those of where it goes to.
func MediumAttrs(format string) []string {
	attrs := []string{"annotation", "cloud-config", "max-content", "name", "source-date-epoch"}
	switch media.Format(format) {
	case media.FormatRaw:
		attrs = append(attrs, "compress", "sector-size", "size")
	case media.FormatQCOW2:
		attrs = append(attrs, "sector-size", "size")
	}
	slices.Sort(attrs)
	return attrs
}

// ParseMedium reads an output's attributes.
func ParseMedium(format string, attrs map[string]string) (Medium, error) {
	m := Medium{Format: format}
	if _, err := media.ParseFormat(format); err != nil {
		return m, err
	}
	attrs = maps.Clone(attrs)
	if attrs == nil {
		attrs = map[string]string{}
	}
	// The layers' compression is not on the medium: take what costs least.
	if attrs["compression"] == "" {
		attrs["compression"] = compression.Uncompressed.String()
	}
	rest, err := m.image.Load(context.Background(), attrs) // the context is for nothing
	if err != nil {
		return m, err
	}
	known := MediumAttrs(format)
	for key, value := range rest {
		switch {
		case key == "format", key == "compression", key == "compression-level", key == "force-compression":
		case !slices.Contains(known, key):
			return m, fmt.Errorf("attribute %q is not known: use %s", key, strings.Join(known, ", "))
		case key == "cloud-config":
			m.CloudConfig = []byte(value)
			if err := config.Merge(config.Parse("cloud-config", m.CloudConfig)).Report().Err(); err != nil {
				return m, err
			}
		case key == "compress":
			m.Compress = value
		case key == "size":
			if m.Size, err = media.ParseSize(value); err != nil {
				return m, err
			}
		case key == "max-content":
			if m.MaxContent, err = media.ParseSize(value); err != nil {
				return m, err
			}
		case key == "sector-size":
			if m.SectorSize, err = media.ParseSize(value); err != nil || m.SectorSize != 512 && m.SectorSize != 4096 {
				return m, fmt.Errorf("sector-size=%s: disks have sectors of 512 or 4096 bytes", value)
			}
		}
	}
	if m.Compress != "" && m.Compress != media.CompressZstd {
		return m, fmt.Errorf("compress=%s is not known: use %s", m.Compress, media.CompressZstd)
	}
	m.setEpoch()
	return m, nil
}

// setEpoch takes the epoch of the image for the medium.
func (m *Medium) setEpoch() {
	if m.image.Epoch != nil && m.image.Epoch.Value != nil {
		m.Epoch = *m.image.Epoch.Value
	}
}

// WriteMedium writes the medium for an image, one byte after the other. An image without a
// boot layer gets one.
func WriteMedium(ctx context.Context, to io.Writer, img image.Image, m Medium) error {
	o := m.Options
	o.CacheSize = layersSize
	o.BootLayers = bootLayers
	err := media.Export(ctx, to, img, media.Format(m.Format), o)
	if tooLarge := (*erofs.ContentError)(nil); errors.As(err, &tooLarge) || errors.Is(err, image.ErrTooLarge) {
		return fmt.Errorf("%w: if the image is meant to be that large, add max-content=SIZE to the output", err)
	}
	return err
}

// LayersFolder is the folder with converted layers in a builder's state folder.
func LayersFolder(root string) string { return filepath.Join(root, "layers") }

// layersSize bounds the store of converted layers in bytes. A system is some hundred
// megabytes, of which its versions share most.
const layersSize = 20 << 30

// bootLayers makes the boot layer and what goes on top of it for an image that was not built with
// our frontend.
func bootLayers(root fs.FS, config ocispec.Image) (tars [][]byte, err error) {
	o := bootlayer.Options{Arch: config.Architecture, Labels: config.Config.Labels}
	for _, make := range []func(fs.FS, bootlayer.Options) (*bootlayer.Layer, error){
		bootlayer.Make, bootlayer.MakeRelease,
	} {
		layer, err := make(root, o)
		if err != nil {
			return nil, err
		}
		var tar bytes.Buffer
		if err := layer.WriteTar(&tar, root); err != nil {
			return nil, err
		}
		tars = append(tars, tar.Bytes())
	}
	return tars, nil
}

// warn shows a warning in the client's summary.
func warn(ctx context.Context, sentence string) {
	w, _, _ := progress.NewFromContext(ctx)
	defer w.Close()
	_ = w.Write(identity.NewID(), client.VertexWarning{Short: []byte(sentence)})
}
