// Package source opens container images wherever they are, for an export without a build.
//
//	REF, oci:REF               registry, with the credentials of the Docker config
//	oci-layout:DIR[:TAG]       OCI image layout in a folder
//	oci-archive:FILE[:TAG]     the same in a tar
//	docker-archive:FILE[:REF]  what `docker save` writes
//	docker:REF                 image of the Docker engine on this machine
//	containerd:REF             image in containerd on this machine
//
// All but an old docker-archive are the same thing: blobs by digest, of which one is an index
// or a manifest ([OCI image layout], OCI image specification 1.1). Nothing is copied but the
// image of a Docker engine, which gives it away as a stream only.
//
// [OCI image layout]: https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/exporter"
)

// Options say where to look. The zero value works.
type Options struct {
	// Platform of the image, as linux/arm64. Default: linux on this machine's architecture
	// or, where there is only one image, that one.
	Platform string
	// Containerd is the address of containerd. Default: /run/containerd/containerd.sock.
	Containerd string
	// Namespace is containerd's. Default: default.
	Namespace string
	// Docker is the Docker engine's socket. Default: DOCKER_HOST or /var/run/docker.sock.
	Docker string
	// Temp is the folder for an image of the Docker engine. Default: the system's.
	Temp string
	// Insecure allows a registry without TLS, or with a certificate that nobody signed.
	Insecure bool
}

// Image is an open image.
type Image struct {
	exporter.Image
	close func() error
}

// Close lets go of the source. The image cannot be read after it.
func (i *Image) Close() error {
	if i.close == nil {
		return nil
	}
	return i.close()
}

// Open opens the image that s names.
func Open(ctx context.Context, s string, o Options) (*Image, error) {
	if o.Platform == "" {
		o.Platform = "linux/" + runtime.GOARCH
	} else if _, err := platforms.Parse(o.Platform); err != nil {
		return nil, fmt.Errorf("platform %s: %w", o.Platform, err)
	}
	scheme, rest, ok := strings.Cut(s, ":")
	openers := map[string]func(context.Context, string, Options) (*Image, error){
		"oci": openRegistry, "oci-layout": openLayout, "oci-archive": openArchive, "docker-archive": openArchive,
		"docker": openDocker, "containerd": openContainerd,
	}
	open := openers[scheme]
	if !ok || open == nil {
		open, rest = openRegistry, s
	}
	if rest == "" {
		return nil, fmt.Errorf("image %q: nothing after %s:", s, scheme)
	}
	img, err := open(ctx, rest, o)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", s, err)
	}
	img.Ref = s
	return img, nil
}

// blobs gives the content that a descriptor names.
type blobs interface {
	open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
}

// maxJSON bounds an index, a manifest and a config in bytes. BuildKit's provenance makes
// the largest ones; containerd's bound is the same.
const maxJSON = 8 << 20

var errTooLarge = errors.New("larger than 8 MiB")

func readAll(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxJSON+1))
	if err == nil && len(b) > maxJSON {
		err = errTooLarge
	}
	return b, err
}
