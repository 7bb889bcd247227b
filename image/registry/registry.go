// Package registry reaches container registries as containerd does: hosts.toml with mirrors, CAs
// and plain HTTP, resumed downloads, and credentials as Docker keeps them, with its helpers.
package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
)

// HostsDir is where containerd looks for a registry's hosts.toml and certificates.
const HostsDir = "/etc/containerd/certs.d"

// Options say how registries are reached. The zero value is what a user of Docker expects.
type Options struct {
	// HostsDir has a folder for each registry with hosts.toml and certificates, in
	// containerd's layout. Empty: [HostsDir].
	HostsDir string
	// AuthFiles are in the form of Docker's config.json, the first one that knows a registry counts.
	// nil: [userAuthFiles].
	AuthFiles []string
	// Insecure allows a registry without TLS, or with a certificate that nobody signed.
	Insecure bool
	// Hosts reaches registries as another client of containerd's does, with its credentials, and nothing above counts.
	Hosts docker.RegistryHosts
}

// Repository is one repository of a registry.
type Repository struct {
	// Name is the full reference.
	Name     string
	resolver remotes.Resolver
	fetcher  remotes.Fetcher
	hosts    docker.RegistryHosts
	host     string
	repo     reference.Named // without tag and digest
}

// Find resolves a reference as people write it, such as "os:v2".
func Find(ctx context.Context, ref string, o Options) (*Repository, ocispec.Descriptor, error) {
	r, err := At(ctx, ref, o)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	_, desc, err := r.resolver.Resolve(quiet(ctx), r.Name)
	if err != nil {
		return nil, desc, r.Explain(err)
	}
	return r, desc, nil
}

// At returns the repository of a reference, and asks nobody: it need not be there.
func At(ctx context.Context, ref string, o Options) (*Repository, error) {
	full, err := FullName(ref)
	if err != nil {
		return nil, err
	}
	named, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return nil, err
	}
	ctx = quiet(ctx)
	r := &Repository{Name: full, host: reference.Domain(named), repo: reference.TrimNamed(named), hosts: o.hosts(ctx)}
	r.resolver = docker.NewResolver(docker.ResolverOptions{Hosts: r.hosts})
	if r.fetcher, err = r.resolver.Fetcher(ctx, full); err != nil {
		return nil, r.Explain(err)
	}
	return r, nil
}

// Tag pushes an index or a manifest by the name that the repository was opened with.
func (r *Repository) Tag(ctx context.Context, desc ocispec.Descriptor, manifest []byte) error {
	if named, err := reference.ParseNormalizedNamed(r.Name); err != nil || reference.IsNameOnly(named) {
		return errors.Join(err, fmt.Errorf("%s has no tag", r.Name))
	} else if _, ok := named.(reference.Digested); ok {
		return fmt.Errorf("%s names a digest: give the copy a tag", r.Name)
	}
	return r.pushAs(ctx, r.Name, desc, manifest)
}

// TagAs pushes a manifest by another tag.
func (r *Repository) TagAs(ctx context.Context, tag string, desc ocispec.Descriptor, manifest []byte) error {
	return r.pushAs(ctx, r.repo.Name()+":"+tag, desc, manifest)
}

func (r *Repository) pushAs(ctx context.Context, name string, desc ocispec.Descriptor, manifest []byte) error {
	fresh := *r // containerd's resolver believes that what it has pushed by digest needs no tag
	fresh.resolver = docker.NewResolver(docker.ResolverOptions{Hosts: r.hosts})
	return fresh.push(ctx, name, desc, bytes.NewReader(manifest))
}

// Resolve returns what another tag or digest of the repository names.
func (r *Repository) Resolve(ctx context.Context, tag string) (ocispec.Descriptor, error) {
	_, desc, err := r.resolver.Resolve(quiet(ctx), r.repo.Name()+":"+tag)
	if err != nil {
		return desc, r.Explain(err)
	}
	return desc, nil
}

// FullName completes a reference as people write it: docker.io/library/os:latest of os.
func FullName(ref string) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", err
	}
	return named.String(), nil
}

func (o Options) hosts(ctx context.Context) docker.RegistryHosts {
	if o.Hosts != nil {
		return partialHosts(o.Hosts)
	}
	dir, files := o.HostsDir, o.AuthFiles
	if dir == "" {
		dir = HostsDir
	}
	if files == nil {
		files = userAuthFiles()
	}
	h := config.HostOptions{
		HostDir:     config.HostDirFromRoot(filepath.Clean(dir)),
		Credentials: func(host string) (string, string, error) { return credentials(files, host) },
	}
	if o.Insecure {
		// TLS is tried first, and then without.
		h.DefaultScheme, h.DefaultTLS = "http", &tls.Config{InsecureSkipVerify: true}
	}
	h.UpdateClient = partial
	return config.ConfigureHosts(ctx, h)
}

// Fetch returns a blob's bytes, unchecked but that there are no more than it should have. A connection that breaks is
// taken up where it broke. They come from the registry alone: an image that names other places would have this machine
// ask whatever it likes.
func (r *Repository) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	desc.URLs = nil
	return r.fetcher.Fetch(quiet(ctx), desc)
}

// quiet keeps containerd's parts from writing to stderr what they return as an error anyway.
func quiet(ctx context.Context) context.Context {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return log.WithLogger(ctx, logrus.NewEntry(l))
}

// Open is Fetch with an error for people.
func (r *Repository) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	blob, err := r.Fetch(ctx, desc)
	if err != nil {
		return nil, r.Explain(err)
	}
	return blob, nil
}

// Explain says what a person can do about an error of the registry.
func (r *Repository) Explain(err error) error {
	var status remoteerrors.ErrUnexpectedStatus
	asked := errors.As(err, &status)
	switch {
	case errors.Is(err, ErrNoRanges):
		return err
	case errdefs.IsNotFound(err), asked && status.StatusCode == http.StatusNotFound:
		return fmt.Errorf("registry %s does not have it: %w", r.host, err)
	case errors.Is(err, docker.ErrInvalidAuthorization),
		asked && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden):
		return fmt.Errorf(
			"registry %s wants to know who you are: log in with `docker login %s`: %w",
			r.host,
			r.host,
			err,
		)
	case asked:
		return fmt.Errorf("registry %s: %w", r.host, err)
	default:
		return fmt.Errorf("registry %s cannot be reached: %w%s", r.host, err, clockHint(err))
	}
}

// clockHint says what to do where a registry's certificate is refused because this machine's clock is
// before the certificate's time, as it is in 1970 on a machine without a battery.
func clockHint(err error) string {
	var invalid x509.CertificateInvalidError
	now := time.Now()
	if !errors.As(err, &invalid) || invalid.Reason != x509.Expired || !now.Before(invalid.Cert.NotBefore) {
		return ""
	}
	return fmt.Sprintf(
		": the clock of this machine says %s: set it (timedatectl, or a time server)",
		now.Format(time.DateTime),
	)
}
