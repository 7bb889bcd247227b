// Package fetch is containerd's part of an upgrade: its content store, whose ingests are resumed, its
// leases, and its snapshots over the blobs of a store. Its parts run in this process, or they are those
// of the node's running daemon.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/remotes"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/erofs"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
)

// Engine fetches images, and has their layers as snapshots.
type Engine struct {
	content   content.Store
	leases    leases.Manager
	images    images.Store
	snapshots snapshots.Snapshotter // nil where there is none that reads EROFS
	collect   func(context.Context) error
	embedded  bool // the content is ours alone
	fetched   atomic.Int64
	closer    func() error
}

// Progress is told about events. Nil is allowed. It may be called by several goroutines.
type Progress func(api.Event)

const (
	snapshotter = "erofs"
	// Namespace is containerd's namespace for what is ours.
	Namespace = "kairos"
	// DaemonSocket is where the node's containerd usually listens.
	DaemonSocket = "/run/containerd/containerd.sock"
)

// Embedded starts containerd's parts in this process, with their state in dir, and blobs
// as the layer content cache of the snapshotter.
func Embedded(dir, blobs string) (_ *Engine, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	cs, err := local.NewStore(filepath.Join(dir, "content"))
	if err != nil {
		return nil, fmt.Errorf("content store: %w", err)
	}
	db, err := openBolt(filepath.Join(dir, "meta.db"))
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	e := &Engine{embedded: true}
	closers := []func() error{db.Close}
	e.closer = func() error {
		var errs []error
		for i := len(closers) - 1; i >= 0; i-- {
			errs = append(errs, closers[i]())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	all := map[string]snapshots.Snapshotter{}
	// A kernel without EROFS cannot show a snapshot; staging does not need one.
	sn, err := erofs.NewSnapshotter(filepath.Join(dir, "snapshots"), erofs.WithLayerContentCaches(blobs))
	if err == nil {
		all[snapshotter] = sn
		closers = append(closers, sn.Close)
	}
	meta := metadata.NewDB(db, cs, all)
	if err := meta.Init(context.Background()); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	e.content = meta.ContentStore()
	e.leases = metadata.NewLeaseManager(meta)
	e.images = metadata.NewImageStore(meta)
	e.collect = func(ctx context.Context) error {
		_, err := meta.GarbageCollect(ctx)
		return err
	}
	if all[snapshotter] != nil {
		e.snapshots = meta.Snapshotter(snapshotter)
	}
	return e, nil
}

// openBolt opens a database. One that a power cut has damaged is rebuilt: nothing in it
// is more than a cache.
func openBolt(path string) (*bolt.DB, error) {
	o := &bolt.Options{Timeout: 5 * time.Second}
	db, err := bolt.Open(path, 0o600, o)
	if err == nil || errors.Is(err, bolterrors.ErrTimeout) {
		return db, err
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return bolt.Open(path, 0o600, o)
}

// Daemon connects to a running containerd.
func Daemon(ctx context.Context, address string) (*Engine, error) {
	c, err := client.New(address, client.WithTimeout(10*time.Second))
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w: is it running?", address, err)
	}
	if _, err := c.Version(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("containerd at %s: %w: is it running?", address, err)
	}
	e := &Engine{
		content: c.ContentStore(), leases: c.LeasesService(), images: c.ImageService(),
		collect: func(context.Context) error { return nil }, // it does so itself
		closer:  c.Close,
	}
	plugins, err := c.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1,id=="+snapshotter)
	if err == nil {
		for _, p := range plugins.Plugins {
			if p.InitErr == nil {
				e.snapshots = c.SnapshotService(snapshotter)
			}
		}
	}
	return e, nil
}

// leaseID names the lease under which an upgrade keeps what it fetches.
const (
	leaseID   = "kairos-apply"
	leaseTime = 7 * 24 * time.Hour
)

// WithLease returns a context in which nothing that is fetched is collected, and what ends
// that. A run whose fetching was interrupted keeps its lease: the next one goes on with what is there. Any other one,
// that failed too, has no use for it, and gives the room back.
func (e *Engine) WithLease(ctx context.Context) (context.Context, func(failed error) error, error) {
	if _, ok := namespaces.Namespace(ctx); !ok {
		ctx = namespaces.WithNamespace(ctx, Namespace)
	}
	_, err := e.leases.Create(ctx, leases.WithID(leaseID), leases.WithExpiration(leaseTime))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return nil, nil, fmt.Errorf("lease: %w", err)
	}
	done := func(failed error) error {
		if failed != nil && (errors.As(failed, new(*InterruptedError)) || errors.Is(failed, context.Canceled)) {
			return nil
		}
		ctx := context.WithoutCancel(ctx)
		if failed != nil {
			return e.Forget(ctx)
		}
		return e.release(ctx)
	}
	return leases.WithLease(ctx, leaseID), done, nil
}

// release lets what was fetched be collected.
func (e *Engine) release(ctx context.Context) error {
	if err := e.leases.Delete(ctx, leases.Lease{ID: leaseID}); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("lease: %w", err)
	}
	return e.collect(ctx)
}

// Forget removes what was fetched, also the beginnings of blobs, and holds what is fetched from now on.
func (e *Engine) Forget(ctx context.Context) error {
	if err := e.release(ctx); err != nil {
		return err
	}
	if e.embedded {
		begun, err := e.content.ListStatuses(ctx)
		if err != nil {
			return fmt.Errorf("list what was fetched: %w", err)
		}
		for _, s := range begun {
			if err := e.content.Abort(ctx, s.Ref); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("remove what was fetched: %w", err)
			}
		}
		if err := e.collect(ctx); err != nil {
			return err
		}
	}
	_, err := e.leases.Create(ctx, leases.WithID(leaseID), leases.WithExpiration(leaseTime))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("lease: %w", err)
	}
	return nil
}

// InterruptedError says that fetching ended before it was done, and that another run may go on with it.
type InterruptedError struct{ Err error }

func (e *InterruptedError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *InterruptedError) Unwrap() error { return e.Err }

// Fetched returns the bytes of blobs that were fetched from registries so far.
func (e *Engine) Fetched() int64 {
	if e == nil {
		return 0
	}
	return e.fetched.Load()
}

// counting counts what is read of a repository's blobs.
type counting struct {
	*registry.Repository
	n *atomic.Int64
}

// Fetch implements remotes.Fetcher.
func (c counting) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	blob, err := c.Repository.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	return &countedBlob{blob, c.n}, nil
}

type countedBlob struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *countedBlob) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// Seek has a blob begin where an interrupted fetch ended.
func (c *countedBlob) Seek(off int64, whence int) (int64, error) {
	s, ok := c.ReadCloser.(io.Seeker)
	if !ok {
		return 0, errors.New("the blob can only be read from its beginning")
	}
	return s.Seek(off, whence)
}

// Close ends what Embedded started, or the connection to the daemon.
func (e *Engine) Close() error { return e.closer() }

// Image finds the image that a reference names. What it consists of is fetched when it is read.
func (e *Engine) Image(
	ctx context.Context,
	ref source.Ref,
	o source.Options,
	progress Progress,
) (*source.Image, error) {
	switch ref.Kind {
	case source.Registry:
		return e.registryImage(ctx, ref, o, progress)
	case source.Containerd:
		return e.storedImage(ctx, ref, o)
	default:
		return source.Open(ctx, ref, o)
	}
}

// storedImage finds an image that containerd has.
func (e *Engine) storedImage(ctx context.Context, ref source.Ref, o source.Options) (*source.Image, error) {
	img, err := source.StoredImage(ctx, e.images, ref.Name)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("containerd has no image %q in this namespace: see `ctr images list`", ref.Name)
	}
	if err != nil {
		return nil, err
	}
	return e.read(ctx, source.Provider{Provider: e.content}, ref.Label(), o, img.Target)
}

// registryImage resolves a reference.
func (e *Engine) registryImage(
	ctx context.Context,
	ref source.Ref,
	o source.Options,
	progress Progress,
) (*source.Image, error) {
	repository, desc, err := registry.Find(ctx, ref.Name, o.Registry)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	img, err := e.read(ctx, fetched{e, repository, progress}, ref.Label(), o, desc)
	if err != nil {
		return nil, err
	}
	img.Repository = repository
	return img, nil
}

// Open gives a blob of a repository out of the content store, into which it is fetched as a whole first.
func (e *Engine) Open(
	ctx context.Context,
	from *registry.Repository,
	desc ocispec.Descriptor,
	progress Progress,
) (io.ReadCloser, error) {
	return fetched{e, from, progress}.Open(ctx, desc)
}

func (e *Engine) read(
	ctx context.Context,
	from image.Blobs,
	ref string,
	o source.Options,
	desc ocispec.Descriptor,
) (*source.Image, error) {
	options, err := o.Image()
	if err != nil {
		return nil, err
	}
	img, err := image.Read(ctx, from, options, desc)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	img.Ref = ref
	return &source.Image{Image: *img}, nil
}

// fetched gives the blobs of a repository: each is brought into the content store first.
type fetched struct {
	*Engine
	from     *registry.Repository
	progress Progress
}

func (f fetched) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := f.fetch(ctx, f.from, desc, f.progress); err != nil {
		return nil, err
	}
	return source.Provider{Provider: f.content}.Open(ctx, desc)
}

// fetch brings a blob into the content store. What an earlier run has fetched of it is not
// fetched again; a connection that breaks is taken up where it broke.
func (e *Engine) fetch(
	ctx context.Context,
	from *registry.Repository,
	desc ocispec.Descriptor,
	progress Progress,
) error {
	const attempts = 5
	for n := 1; ; n++ {
		stop := e.watch(ctx, desc, progress)
		err := remotes.Fetch(ctx, e.content, counting{from, &e.fetched}, desc)
		stop()
		if err == nil || errdefs.IsAlreadyExists(err) {
			return nil
		}
		if n == attempts || ctx.Err() != nil || !worthAnotherTry(err) {
			err = fmt.Errorf("fetch %s: %w", desc.Digest, from.Explain(err))
			if ctx.Err() != nil || worthAnotherTry(err) && !errors.Is(err, unix.ENOSPC) {
				err = &InterruptedError{err}
			}
			return err
		}
		var status remoteerrors.ErrUnexpectedStatus
		if errors.As(err, &status) && status.StatusCode == http.StatusRequestedRangeNotSatisfiable {
			// A registry without ranges never goes on with what is begun: it has to begin again.
			if err := e.content.Abort(ctx, remotes.MakeRefKey(ctx, desc)); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("fetch %s: %w", desc.Digest, err)
			}
		}
		select {
		case <-ctx.Done():
			return &InterruptedError{ctx.Err()}
		case <-time.After(time.Duration(n) * time.Second):
		}
	}
}

// worthAnotherTry says whether an error may be the network's.
func worthAnotherTry(err error) bool {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		switch code := status.StatusCode; code {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusRequestedRangeNotSatisfiable:
		default:
			if code < 500 {
				return false
			}
		}
	}
	return !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) && !errdefs.IsInvalidArgument(err) &&
		!errdefs.IsUnauthorized(err) && !errdefs.IsPermissionDenied(err)
}

// watch reports how much of a blob is here, until it is told to stop.
func (e *Engine) watch(ctx context.Context, desc ocispec.Descriptor, progress Progress) (stop func()) {
	if progress == nil || desc.Size < 1<<20 {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(500 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-done:
				progress(
					api.Event{
						Step:   api.StepFetch,
						Object: layout.Digest(desc.Digest).Short(),
						Done:   desc.Size,
						Total:  desc.Size,
					},
				)
				return
			case <-t.C:
				if s, err := e.content.Status(ctx, remotes.MakeRefKey(ctx, desc)); err == nil {
					progress(
						api.Event{
							Step:   api.StepFetch,
							Object: layout.Digest(desc.Digest).Short(),
							Done:   s.Offset,
							Total:  desc.Size,
						},
					)
				}
			}
		}
	}()
	return func() { close(done); <-ended }
}
