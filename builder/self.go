package builder

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/util/resolver/config"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/frontend"
)

// selfImage is the image docker.io/library/kairos: one layer with one file, the running
// program, which is the frontend when it is called by the frontend's name. It is made when it
// is first asked for, and the same program gives the same image.
//
// BuildKit reads it as it reads any image, through a registry's API: the transport of the
// HTTP client for docker.io answers for this one repository itself.
type selfImage struct {
	path string // of the program, default: the running one
	once sync.Once
	err  error

	manifest, config []byte
	layer            blob
}

// selfRepository is what the reference "kairos" stands for on docker.io.
const selfRepository = "/library/kairos/"

// hosts returns the registry hosts of BuildKit's configuration, with the image in docker.io.
func (s *selfImage) hosts(registries map[string]config.RegistryConfig) docker.RegistryHosts {
	hosts := resolver.NewRegistryConfig(registries)
	return func(domain string) ([]docker.RegistryHost, error) {
		hs, err := hosts(domain)
		if err != nil || domain != "docker.io" {
			return hs, err
		}
		for i, h := range hs {
			c := http.Client{}
			if h.Client != nil {
				c = *h.Client
			}
			c.Transport = selfTransport{self: s, prefix: h.Path, others: c.Transport}
			hs[i].Client = &c
		}
		return hs, nil
	}
}

type selfTransport struct {
	self   *selfImage
	prefix string // of the registry's API, as /v2
	others http.RoundTripper
}

func (t selfTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	rest, ours := strings.CutPrefix(req.URL.Path, t.prefix+selfRepository)
	switch {
	case ours:
		return t.self.answer(req, rest)
	case t.others == nil:
		return http.DefaultTransport.RoundTrip(req)
	default:
		return t.others.RoundTrip(req)
	}
}

// answer serves manifests/<reference> and blobs/<digest>.
func (s *selfImage) answer(req *http.Request, rest string) (*http.Response, error) {
	if s.once.Do(func() { s.err = s.make() }); s.err != nil {
		return nil, s.err
	}
	kind, ref, _ := strings.Cut(rest, "/")
	for _, b := range []struct {
		kind, mediaType string
		names           []string
		blob            blob
	}{
		{"manifests", ocispec.MediaTypeImageManifest, []string{"latest", digest.FromBytes(s.manifest).String()},
			bytesBlob(s.manifest)},
		{"blobs", ocispec.MediaTypeImageConfig, []string{digest.FromBytes(s.config).String()}, bytesBlob(s.config)},
		{"blobs", ocispec.MediaTypeImageLayer, []string{s.layer.digest.String()}, s.layer},
	} {
		for _, name := range b.names {
			if kind == b.kind && ref == name {
				return b.blob.response(req, b.mediaType)
			}
		}
	}
	return &http.Response{
		Status: "404 Not Found", StatusCode: http.StatusNotFound, Request: req, Header: http.Header{},
		Body:  http.NoBody,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}, nil
}

func (s *selfImage) make() error {
	path := s.path
	if path == "" {
		path = "/proc/self/exe"
	}
	if err := checkStatic(path); err != nil {
		return err
	}
	layer, err := programLayer(path)
	if err != nil {
		return fmt.Errorf("frontend's image: %w", err)
	}
	s.layer = layer
	image := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config: ocispec.ImageConfig{
			Entrypoint: []string{frontend.Binary},
			Labels:     frontendLabels(),
		},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.digest}},
	}
	if s.config, err = json.Marshal(image); err != nil {
		return err
	}
	s.manifest, err = json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageConfig,
			Digest:    digest.FromBytes(s.config),
			Size:      int64(len(s.config)),
		},
		Layers: []ocispec.Descriptor{
			{MediaType: ocispec.MediaTypeImageLayer, Digest: layer.digest, Size: layer.size},
		},
	})
	return err
}

// frontendLabels are the labels by which BuildKit knows what a frontend can do.
func frontendLabels() map[string]string {
	return map[string]string{
		"moby.buildkit.frontend.network.none": "true",
		"moby.buildkit.frontend.caps": "moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests," +
			"moby.buildkit.frontend.contexts,moby.buildkit.frontend.gitquerystring," +
			"moby.buildkit.frontend.contexts.zstd",
	}
}

// checkStatic says whether the program runs in an image that has nothing else.
func checkStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("frontend's program %s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New(
				"this kairos was linked dynamically and cannot run inside a build: build it with CGO_ENABLED=0, " +
					"as `make` does",
			)
		}
	}
	return nil
}

// blob is content that is opened each time it is read.
type blob struct {
	digest digest.Digest
	size   int64
	open   func() (io.ReadCloser, error)
}

func bytesBlob(b []byte) blob {
	return blob{
		digest.FromBytes(b),
		int64(len(b)),
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil },
	}
}

func (b blob) response(req *http.Request, mediaType string) (*http.Response, error) {
	r := &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Request: req, Body: http.NoBody, ContentLength: b.size,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			"Content-Type":          {mediaType},
			"Content-Length":        {strconv.FormatInt(b.size, 10)},
			"Docker-Content-Digest": {b.digest.String()},
		},
	}
	if req.Method == http.MethodHead {
		return r, nil
	}
	body, err := b.open()
	r.Body = body
	return r, err
}

// programLayer is a tar with the program as its only file, as it is read.
func programLayer(path string) (blob, error) {
	f, err := os.Open(path)
	if err != nil {
		return blob{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return blob{}, err
	}
	var header bytes.Buffer
	if err := tar.NewWriter(&header).WriteHeader(&tar.Header{
		Name: strings.TrimPrefix(frontend.Binary, "/"), Mode: 0o755, Size: info.Size(), Typeflag: tar.TypeReg,
	}); err != nil {
		return blob{}, err
	}
	const block = 512
	padding := make([]byte, (block-info.Size()%block)%block+2*block)
	content := func(f io.Reader) io.Reader {
		return io.MultiReader(bytes.NewReader(header.Bytes()), f, bytes.NewReader(padding))
	}
	h := sha256.New()
	size, err := io.Copy(h, content(f))
	if err != nil {
		return blob{}, err
	}
	return blob{digest.NewDigest(digest.SHA256, h), size, func() (io.ReadCloser, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		return struct {
			io.Reader
			io.Closer
		}{content(f), f}, nil
	}}, nil
}
