package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image"
)

// openDocker takes an image out of the Docker engine, as `docker save` does.
func openDocker(ctx context.Context, ref string, o opening) (*Image, error) {
	c, where, err := dockerClient(o.Docker)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(
		ctx,
		http.MethodGet,
		"http://docker/images/get?names="+url.QueryEscape(ref),
		nil,
	)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, fmt.Errorf("no Docker engine at %s: %w", where, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		msg, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return nil, fmt.Errorf("the Docker engine at %s: %s: %s", where, resp.Status, strings.TrimSpace(string(msg)))
	}
	f, err := os.CreateTemp(o.Temp, "kairos-image-*.tar")
	if err != nil {
		return nil, err
	}
	// The name goes at once: whatever happens, no file is left.
	removed := os.Remove(f.Name())
	if _, err := io.Copy(f, resp.Body); err != nil || removed != nil {
		return nil, errors.Join(
			fmt.Errorf("take the image out of the Docker engine: %w", errors.Join(err, removed)),
			f.Close(),
		)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	tree, err := tarTree(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return fromTree(ctx, tree, "", f, o)
}

// dockerClient talks to the engine at a socket.
func dockerClient(host string) (*http.Client, string, error) {
	if host == "" {
		host = os.Getenv("DOCKER_HOST")
	}
	if host == "" {
		host = "/var/run/docker.sock"
	}
	socket := strings.TrimPrefix(host, "unix://")
	if strings.Contains(socket, "://") {
		return nil, "", fmt.Errorf(
			"DOCKER_HOST=%s: only a unix socket will do: use `docker save -o FILE` and docker-archive:FILE",
			host,
		)
	}
	return &http.Client{
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}},
	}, socket, nil
}

// openContainerd opens an image where containerd has it.
func openContainerd(ctx context.Context, ref string, o opening) (*Image, error) {
	address, namespace := o.Containerd, o.Namespace
	if address == "" {
		address = "/run/containerd/containerd.sock"
	}
	if namespace == "" {
		namespace = "default"
	}
	if _, err := os.Stat(address); err != nil {
		return nil, fmt.Errorf("no containerd at %s: %w", address, err)
	}
	c, err := client.New(address)
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w", address, err)
	}
	ctx = namespaces.WithNamespace(ctx, namespace)
	found, err := StoredImage(ctx, c.ImageService(), ref)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("containerd at %s, namespace %s: %w", address, namespace, err), c.Close())
	}
	img, err := image.Read(ctx, Provider{inNamespace{c.ContentStore(), namespace}}, o.image, found.Target)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &Image{Image: *img, close: c.Close}, nil
}

// StoredImage finds an image in containerd by its name, or by a shorter one that people write.
func StoredImage(ctx context.Context, store images.Store, ref string) (images.Image, error) {
	found, err := store.Get(ctx, normalizedOr(ref))
	if errdefs.IsNotFound(err) {
		found, err = store.Get(ctx, ref)
	}
	return found, err
}

func normalizedOr(ref string) string {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return ref
	}
	return named.String()
}

// inNamespace asks containerd for content that it keeps in a namespace.
type inNamespace struct {
	content.Provider
	namespace string
}

func (n inNamespace) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	return n.Provider.ReaderAt(namespaces.WithNamespace(ctx, n.namespace), desc)
}

// Provider gives an image's blobs out of containerd's content.
type Provider struct{ content.Provider }

// Open opens a blob.
func (p Provider) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	at, err := p.ReaderAt(ctx, desc)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("its content %s is not here: %w", desc.Digest, err)
	}
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(at, 0, at.Size()), at}, nil
}
