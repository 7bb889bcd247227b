// Command ocipack packs the tar of a root file system as an image of one gzip layer in
// an OCI layout. Equal tars give equal layouts.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

func main() {
	arch := flag.String("arch", "amd64", "architecture, in OCI's words")
	tag := flag.String("tag", "latest", "tag of the image in the layout")
	out := flag.String("o", "", "folder to make")
	flag.Parse()
	if *out == "" || flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: ocipack [-arch ARCH] [-tag TAG] -o DIR ROOT.tar")
		os.Exit(2)
	}
	if err := pack(*out, flag.Arg(0), *arch, *tag); err != nil {
		fmt.Fprintln(os.Stderr, "ocipack:", err)
		os.Exit(1)
	}
}

func pack(dir, tar, arch, tag string) error {
	created, err := epoch()
	if err != nil {
		return err
	}
	compressed, err := compress(tar)
	if err != nil {
		return fmt.Errorf("compress %s: %w", tar, err)
	}
	defer os.Remove(compressed)

	layer, err := tarball.LayerFromFile(compressed, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return fmt.Errorf("layer of %s: %w", tar, err)
	}
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: created}, CreatedBy: "mmdebstrap"},
	})
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	config.Created = v1.Time{Time: created}
	config.Config.Cmd = []string{"bash"}
	config.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return err
	}

	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := l.WriteImage(img); err != nil {
		return err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	// Not AppendImage: it adds an artifactType, which makes an image look like an artifact.
	return l.AppendDescriptor(v1.Descriptor{
		MediaType:   types.OCIManifestSchema1,
		Size:        int64(len(manifest)),
		Digest:      digest,
		Platform:    &v1.Platform{OS: "linux", Architecture: arch},
		Annotations: map[string]string{"org.opencontainers.image.ref.name": tag},
	})
}

// epoch is the image's time of creation: SOURCE_DATE_EPOCH, or 1970.
func epoch() (time.Time, error) {
	s := os.Getenv("SOURCE_DATE_EPOCH")
	if s == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(n, 0).UTC(), nil
}

// compress writes a gzip of the file beside it, once, so that the layer's digest and the
// layout's blob come from the same bytes.
func compress(name string) (out string, err error) {
	in, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer in.Close()
	f, err := os.Create(name + ".gz")
	if err != nil {
		return "", err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	z := gzip.NewWriter(w) // no name, no time: equal input gives equal output
	_, err = io.Copy(z, bufio.NewReaderSize(in, 1<<20))
	err = errors.Join(err, z.Close(), w.Flush(), f.Close())
	if err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}
