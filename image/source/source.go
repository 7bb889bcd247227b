// Package source opens container images wherever they are. [Help] lists where that can be.
//
// All but an old docker-archive and a folder are the same thing: blobs by digest, of which one is
// an index or a manifest ([OCI image layout], OCI image specification 1.1). Nothing is copied but
// the image of a Docker engine, which gives it away as a stream only.
//
// [OCI image layout]: https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
package source

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/registry"
)

// Options say where to look, and for what. The zero value works.
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
	// Registry says how registries are reached.
	Registry registry.Options
	// MaxSize bounds the layers' size uncompressed, all together in bytes. 0: no limit.
	MaxSize int64
}

// Image returns what the reader of images is told.
func (o Options) Image() (image.Options, error) {
	i := image.Options{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, Fallback: true}
	if o.Platform != "" {
		p, err := platforms.Parse(o.Platform)
		if err != nil {
			return i, fmt.Errorf("platform %s: %w", o.Platform, err)
		}
		if p.Architecture == "amd64" && p.Variant == "" && strings.HasSuffix(o.Platform, "/v1") {
			p.Variant = "v1" // Parse leaves it out, and without a variant any image would do
		}
		i = image.Options{Platform: p}
	}
	i.Limit = &image.Limit{Max: o.MaxSize}
	return i, nil
}

// Image is an open image.
type Image struct {
	image.Image
	// Repository is where the image is, with what refers to it; nil where that is no registry and no OCI layout.
	Repository Repository
	// Accepted is what has accepted the image, where somebody was asked.
	Accepted []api.Acceptance
	close    func() error
}

// Close lets go of the source. The image cannot be read after it.
func (i *Image) Close() error {
	if i.close == nil {
		return nil
	}
	return i.close()
}

// Open opens the image that a reference names.
func Open(ctx context.Context, r Ref, o Options) (*Image, error) {
	openers := map[Kind]func(context.Context, string, opening) (*Image, error){
		Registry: openRegistry, OCILayout: openLayout, OCIArchive: openArchive, DockerArchive: openArchive,
		Docker: openDocker, Containerd: openContainerd, Directory: openDirectory,
		ISO: openISO, Disk: openDisk,
	}
	i, err := o.Image()
	if err != nil {
		return nil, err
	}
	open := openers[r.Kind]
	if open == nil {
		return nil, fmt.Errorf("image %s: unknown kind of place", r)
	}
	img, err := open(ctx, r.Name, opening{o, i})
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", r, err)
	}
	img.Ref = r.Label()
	return img, nil
}

// Label is what a release keeps of a reference: people read it, and [Parse] does, in another folder and later.
func (r Ref) Label() string {
	switch r.Kind {
	case Registry:
		name := r.Name
		if full, err := registry.FullName(name); err == nil {
			name = full
		}
		if again, err := Parse(name); err == nil && again.Kind != Registry {
			return r.String() // a host whose name is that of a kind
		}
		return name
	case OCILayout, OCIArchive, DockerArchive, Directory, ISO, Disk:
		if here, err := os.Getwd(); err == nil && !filepath.IsAbs(r.Name) {
			r.Name = filepath.Join(here, r.Name)
		}
	}
	return r.String()
}

// opening is what those that open an image need.
type opening struct {
	Options
	image image.Options
}

func openRegistry(ctx context.Context, ref string, o opening) (*Image, error) {
	repository, desc, err := registry.Find(ctx, ref, o.Registry)
	if err != nil {
		return nil, err
	}
	img, err := image.Read(ctx, repository, o.image, desc)
	if err != nil {
		return nil, err
	}
	return &Image{Image: *img, Repository: repository}, nil
}
