package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/erofs"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// engine is containerd's part of the work: fetching, and layers as snapshots. Either its
// parts run in this process, or they are those of the node's running daemon.
type engine struct {
	content   content.Store
	leases    leases.Manager
	images    images.Store
	snapshots snapshots.Snapshotter // nil where there is none that reads EROFS
	collect   func(context.Context) error
	close     func() error
}

const (
	snapshotter = "erofs"
	// embeddedNamespace is containerd's namespace for the parts in this process.
	embeddedNamespace = "kairos"
	// DaemonSocket is where the node's containerd usually listens.
	DaemonSocket = "/run/containerd/containerd.sock"
)

// embedded starts containerd's parts in this process, with their state in dir, and blobs
// as the layer content cache of the snapshotter.
func embedded(dir, blobs string) (_ *engine, err error) {
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
	e := &engine{}
	closers := []func() error{db.Close}
	e.close = func() error {
		var errs []error
		for i := len(closers) - 1; i >= 0; i-- {
			errs = append(errs, closers[i]())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	all := map[string]snapshots.Snapshotter{}
	// A kernel without EROFS cannot show a snapshot; staging does not need one.
	if sn, err := erofs.NewSnapshotter(filepath.Join(dir, "snapshots"), erofs.WithLayerContentCaches(blobs)); err == nil {
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

// openBolt opens a database. One that a power cut has damaged is made anew: nothing in it
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

// daemon connects to a running containerd.
func daemon(ctx context.Context, address string) (*engine, error) {
	c, err := client.New(address, client.WithTimeout(10*time.Second))
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w: is it running?", address, err)
	}
	if _, err := c.Version(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("containerd at %s: %w: is it running?", address, err)
	}
	e := &engine{
		content: c.ContentStore(), leases: c.LeasesService(), images: c.ImageService(),
		collect: func(context.Context) error { return nil }, // it does so itself
		close:   c.Close,
	}
	if plugins, err := c.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1,id=="+snapshotter); err == nil {
		for _, p := range plugins.Plugins {
			if p.InitErr == nil {
				e.snapshots = c.SnapshotService(snapshotter)
			}
		}
	}
	return e, nil
}

// leaseID names the lease under which an upgrade keeps what it fetches.
const leaseID = "kairos-apply"

// withLease returns a context in which nothing that is fetched is collected, and what ends
// that. A run that failed keeps its lease: the next one goes on with what is there.
func (e *engine) withLease(ctx context.Context) (context.Context, func(failed error) error, error) {
	if _, ok := namespaces.Namespace(ctx); !ok {
		ctx = namespaces.WithNamespace(ctx, embeddedNamespace)
	}
	_, err := e.leases.Create(ctx, leases.WithID(leaseID), leases.WithExpiration(7*24*time.Hour))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return nil, nil, fmt.Errorf("lease: %w", err)
	}
	done := func(failed error) error {
		if failed != nil {
			return nil
		}
		ctx := context.WithoutCancel(ctx)
		if err := e.leases.Delete(ctx, leases.Lease{ID: leaseID}); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("lease: %w", err)
		}
		return e.collect(ctx)
	}
	return leases.WithLease(ctx, leaseID), done, nil
}

// image finds the image that a source names.
func (e *engine) image(ctx context.Context, src Source, arch string, o RegistryOptions, progress Progress) (*image, error) {
	switch src.Kind {
	case Registry:
		return e.registryImage(ctx, src, arch, o, progress)
	case Containerd:
		return e.storedImage(ctx, src, arch)
	case OCILayout:
		dir, tag := splitTag(src.Ref, exists)
		return layoutImage(ctx, folder(dir), dir, tag, arch)
	case OCIArchive, DockerArchive:
		name, tag := splitTag(src.Ref, exists)
		a, err := openArchive(name)
		if err != nil {
			return nil, err
		}
		// The archive stays open as long as the process: its layers are read later.
		if src.Kind == DockerArchive {
			return dockerImage(a, name, tag, arch)
		}
		return layoutImage(ctx, a, name, tag, arch)
	case Directory:
		return directoryImage(ctx, src.Ref, arch)
	}
	return nil, fmt.Errorf("source %s: unknown kind", src)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// storedImage finds an image that containerd has.
func (e *engine) storedImage(ctx context.Context, src Source, arch string) (*image, error) {
	img, err := e.images.Get(ctx, src.Ref)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("containerd has no image %q in this namespace: see `ctr images list`", src.Ref)
	}
	if err != nil {
		return nil, err
	}
	return readImage(ctx, src.Ref, img.Target, arch, e.content, have)
}

// registryImage resolves a reference. What the image consists of is fetched when it is read.
func (e *engine) registryImage(ctx context.Context, src Source, arch string, o RegistryOptions, progress Progress) (*image, error) {
	ref, err := fullReference(src.Ref)
	if err != nil {
		return nil, err
	}
	resolver := o.resolver(ctx)
	name, desc, err := resolver.Resolve(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w%s", ref, err, clockHint(err))
	}
	fetcher, err := resolver.Fetcher(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", ref, err)
	}
	fetch := func(ctx context.Context, desc ocispec.Descriptor) error {
		return e.fetch(ctx, fetcher, desc, progress)
	}
	return readImage(ctx, ref, desc, arch, e.content, fetch)
}

// fetch brings a blob into the content store. What an earlier run has fetched of it is not
// fetched again; a connection that breaks is taken up where it broke.
func (e *engine) fetch(ctx context.Context, fetcher remotes.Fetcher, desc ocispec.Descriptor, progress Progress) error {
	const attempts = 5
	for n := 1; ; n++ {
		stop := e.watch(ctx, desc, progress)
		err := remotes.Fetch(ctx, e.content, fetcher, desc)
		stop()
		if err == nil || errdefs.IsAlreadyExists(err) {
			return nil
		}
		if n == attempts || ctx.Err() != nil || !worthAnotherTry(err) {
			return fmt.Errorf("fetch %s: %w", desc.Digest, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(n) * time.Second):
		}
	}
}

// worthAnotherTry says whether an error may be the network's.
func worthAnotherTry(err error) bool {
	return !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) && !errdefs.IsInvalidArgument(err) &&
		!errdefs.IsUnauthorized(err) && !errdefs.IsPermissionDenied(err)
}

// watch reports how much of a blob is here, until it is told to stop.
func (e *engine) watch(ctx context.Context, desc ocispec.Descriptor, progress Progress) (stop func()) {
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
				progress(Event{Step: "fetch", Object: short(string(desc.Digest)), Done: desc.Size, Total: desc.Size})
				return
			case <-t.C:
				if s, err := e.content.Status(ctx, remotes.MakeRefKey(ctx, desc)); err == nil {
					progress(Event{Step: "fetch", Object: short(string(desc.Digest)), Done: s.Offset, Total: desc.Size})
				}
			}
		}
	}()
	return func() { close(done); <-ended }
}
