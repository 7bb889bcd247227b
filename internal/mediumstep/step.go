// Package mediumstep is the build step that makes a medium out of a root file system, for BuildKit
// daemons without our exporters: `docker buildx build --target iso --output type=local,dest=. .`
//
// Such a step sees the finished tree and not its layers, so the medium has one layer with all of it.
package mediumstep

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/exporter"
	"github.com/kairos-buildkit/kairos/frontend"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
)

// Commands are the commands that the frontend's program needs of this package.
func Commands() map[string]frontend.Command { return map[string]frontend.Command{"medium": Run} }

// Run is the command that the frontend puts into the build.
func Run(ctx context.Context, args []string, log io.Writer) error {
	var o options
	flags := flag.NewFlagSet("medium", flag.ContinueOnError)
	flags.SetOutput(log)
	flags.StringVar(&o.root, "root", "", "folder with the image's root")
	flags.StringVar(&o.config, "config", "", "file with the image's config")
	flags.StringVar(&o.out, "out", "", "folder for the medium")
	flags.StringVar(&o.format, "format", "", "iso, raw or qcow2")
	flags.StringVar(&o.epoch, "epoch", "", "SOURCE_DATE_EPOCH")
	flags.StringVar(&o.size, "size", "", "size of a disk")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return o.run(ctx, log)
}

type options struct {
	root, config, out, format, epoch, size string
}

func (o options) run(ctx context.Context, log io.Writer) error {
	format, err := exporter.ParseFormat(o.format)
	if err != nil {
		return err
	}
	export := exporter.Options{
		Progress: func(step string) func(error) error {
			fmt.Fprintln(log, step)
			return func(err error) error { return err }
		},
		Warn: func(s string) { fmt.Fprintln(log, s) },
	}
	if o.size != "" {
		if export.Size, err = exporter.ParseSize(o.size); err != nil {
			return err
		}
	}
	if o.epoch != "" {
		sec, err := strconv.ParseInt(o.epoch, 10, 64)
		if err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH=%s: want seconds since 1970", o.epoch)
		}
		export.Epoch = time.Unix(sec, 0).UTC()
	}
	img, err := flatten(ctx, o.root, o.config, export.Epoch)
	if err != nil {
		return err
	}
	_, err = exporter.WriteFile(filepath.Join(o.out, "os."+o.format), func(w io.Writer) error {
		return exporter.Export(ctx, w, img, format, export)
	})
	return err
}

// flatten returns the tree in a folder as an image with one layer.
func flatten(ctx context.Context, root, configFile string, epoch time.Time) (image.Image, error) {
	var img image.Image
	b, err := os.ReadFile(configFile)
	if err != nil {
		return img, err
	}
	if err := json.Unmarshal(b, &img.Config); err != nil {
		return img, fmt.Errorf("image config: %w", err)
	}
	// The layer is read twice, once for its name and once for its content, and never stored.
	open := func(ctx context.Context) (io.ReadCloser, error) { return tarOf(ctx, root, epoch), nil }
	layer, err := open(ctx)
	if err != nil {
		return img, err
	}
	defer layer.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, layer)
	if err != nil {
		return img, fmt.Errorf("read the image's root: %w", err)
	}
	id := layout.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil)))
	img.Layers = []image.Layer{{DiffID: id, Size: size, Open: open}}

	img.Config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.Digest(id)}}
	img.Config.Created = nil
	img.Config.History = []ocispec.History{{CreatedBy: "kairos: all layers in one"}}
	if !epoch.IsZero() {
		img.Config.Created = &epoch
	}
	config, err := json.Marshal(img.Config)
	if err != nil {
		return img, err
	}
	img.ConfigDigest = layout.Digest(digest.FromBytes(config))
	return img, nil
}

// tarOf returns a folder as the tar of a layer. With an epoch nothing in it is younger.
func tarOf(ctx context.Context, root string, epoch time.Time) io.ReadCloser {
	all := archive.Diff(ctx, "", root)
	if epoch.IsZero() {
		return all
	}
	r, w := io.Pipe()
	go func() {
		err := clamp(w, all, epoch)
		w.CloseWithError(errors.Join(err, all.Close()))
	}()
	return r
}

// clamp copies a tar with all times no later than the epoch.
func clamp(to io.Writer, from io.Reader, epoch time.Time) error {
	in, out := tar.NewReader(from), tar.NewWriter(to)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			return err
		}
		if h.ModTime.After(epoch) {
			h.ModTime = epoch
		}
		// The other two are the build's.
		h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}
