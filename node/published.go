package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/fetch"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/release/blocks"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/verity"
)

// published is a release that is beside its image.
type published struct {
	release.Artifact
	from source.Repository
}

// published finds the release beside an image, where that can be used here: its layers are those of the image, in the
// format of those that the store has already. nil where there is none.
//
// The release of an image that is named by its digest is left alone, since nothing ties its roots to that digest: the
// layers themselves are compared with it, and converted here. So it is with an image that was accepted for its
// signature, where the policies do not accept the release, too.
func (m *Machine) published(
	ctx context.Context,
	s *store.Store,
	img *source.Image,
	has hasLayer,
	progress Progress,
) *published {
	p, err := m.findPublished(ctx, s, img, has, nil)
	if err != nil && !errors.Is(err, release.ErrNone) {
		progress.note(fmt.Sprintf("the release beside the image is not used, its layers are converted here: %v", err))
	}
	return p
}

// findPublished is published, and says why there is none: [release.ErrNone] where nothing is beside the image. With an
// anchor it is a release that this accepts: then the image may be named by its digest, too.
func (m *Machine) findPublished(
	ctx context.Context,
	s *store.Store,
	img *source.Image,
	has hasLayer,
	anchor *trust.Anchor,
) (*published, error) {
	manifest, err := layout.ParseDigest(img.Manifest.Digest.String())
	if img.Repository == nil || err != nil {
		return nil, release.ErrNone
	}
	var a release.Artifact
	if anchor != nil {
		a, err = release.FindTrusted(ctx, img.Repository, manifest, *anchor, runtime.GOARCH)
	} else {
		a, err = release.Find(ctx, img.Repository, manifest)
	}
	if err == nil {
		var ids []layout.Digest
		for _, l := range img.Layers {
			ids = append(ids, l.DiffID)
		}
		err = a.Fits(manifest, img.ConfigDigest, img.Config.Architecture, ids)
	}
	if err == nil && anchor == nil && strings.Contains(img.Ref, "@") {
		err = errors.New("the image is named by its digest, and the release is not signed")
	}
	if err == nil && anchor == nil {
		err = m.allowBeside(ctx, img, a)
	}
	if err == nil {
		err = m.takes(s, a, has)
	}
	if err != nil {
		return nil, err
	}
	return &published{a, img.Repository}, nil
}

// hasLayer says which layers are here when the missing ones are fetched.
type hasLayer func(layout.Digest) (layout.Layer, bool, error)

// takes says whether a release's layers can be in the store.
func (m *Machine) takes(s *store.Store, a release.Artifact, has hasLayer) error {
	need := int64(reserve)
	for _, l := range a.Release.Layers {
		have, ok, err := has(l.DiffID)
		if err != nil {
			return err
		}
		switch {
		case !ok:
			if need += max(0, verity.TotalSize(l.Size)-taken(s, l.DiffID)); need < 0 {
				return fmt.Errorf("layer %s has %d bytes", l.DiffID.Short(), l.Size)
			}
		case have != l:
			return fmt.Errorf("layer %s is here in another format", l.DiffID.Short())
		}
	}
	if have, err := m.freeBytes(s.Dir()); err != nil || have < need {
		return errors.Join(err, fmt.Errorf("it takes %s, and %s are free", mib(need), mib(have)))
	}
	return nil
}

// taken returns the bytes of the disk that the beginning of a layer takes, which an interrupted run has left.
func taken(s *store.Store, id layout.Digest) int64 {
	f, n, err := s.Begun(id)
	if err != nil {
		return 0
	}
	f.Close()
	return n
}

// fetch brings the layers that are missing into the store. What it returns counts with an error, too.
func (m *Machine) fetch(
	ctx context.Context,
	e *fetch.Engine,
	s *store.Store,
	p *published,
	progress Progress,
) (total blocks.Stats, err error) {
	for i, l := range p.Release.Layers {
		if _, ok, err := s.Layer(l.DiffID); err != nil {
			return total, err
		} else if ok {
			continue
		}
		stats, err := m.fetchLayer(ctx, e, s, p, i, progress)
		total.Add(stats)
		if err != nil {
			return p.count(total), err
		}
	}
	return p.count(total), nil
}

// count leaves out what comes over no network.
func (p *published) count(s blocks.Stats) blocks.Stats {
	if !inRegistry(p.from) {
		s.Fetched, s.Ranges, s.Requests = 0, 0, 0
	}
	return s
}

func inRegistry(r source.Repository) bool {
	_, ok := r.(*registry.Repository)
	return ok
}

func transfer(s blocks.Stats) api.Transfer {
	return api.Transfer{
		Fetched: s.Fetched, Reused: s.Reused, Written: s.Written, Ranges: s.Ranges, Requests: s.Requests,
	}
}

// forecast says what [Machine.fetch] will return, from trees alone.
func (m *Machine) forecast(
	ctx context.Context, s *store.Store, p *published, has hasLayer,
) (total blocks.Stats, err error) {
	locals, done := m.locals()
	defer done()
	for i, l := range p.Release.Layers {
		if _, ok, err := has(l.DiffID); err != nil {
			return total, err
		} else if ok {
			continue
		}
		plan, err := blocks.Look(ctx, l, p.remote(i), locals)
		if ctx.Err() != nil {
			return total, ctx.Err()
		}
		if err != nil {
			total.Add(whole(l, p.Blobs[i]))
			continue
		}
		if f, _, err := s.Begun(l.DiffID); err == nil {
			plan.Resume(f)
			f.Close()
		}
		total.Add(plan.Cost())
		locals = append(locals, plan.Local())
	}
	return p.count(total), nil
}

// remote reads parts of a layer's blob.
func (p *published) remote(i int) blocks.Remote {
	return func(ctx context.Context, off, n int64) (io.ReadCloser, error) {
		r, err := p.from.Range(ctx, p.Blobs[i], off, n)
		if errors.Is(err, registry.ErrNoRanges) {
			err = blocks.Final{Err: err}
		}
		return r, err
	}
}

func (m *Machine) fetchLayer(
	ctx context.Context,
	e *fetch.Engine,
	s *store.Store,
	p *published,
	i int,
	progress Progress,
) (stats blocks.Stats, err error) {
	l, desc := p.Release.Layers[i], p.Blobs[i]
	name := fmt.Sprintf("%s (%d of %d)", l.DiffID.Short(), i+1, len(p.Release.Layers))
	progress.step(api.StepFetch, name)
	locals, done := m.locals()
	defer done()
	remote := p.remote(i)
	plan, err := blocks.Look(ctx, l, remote, locals)
	if err == nil {
		missing := plan.Cost().Fetched
		_, err = s.WriteBlob(ctx, l, func(w *store.BlobWriter) error {
			stats, err = plan.Write(ctx, remote, w, func(n int64) {
				if progress != nil {
					progress(Event{Step: api.StepFetch, Object: name, Done: min(n, missing), Total: missing})
				}
			})
			return err
		})
	}
	if err == nil || ctx.Err() != nil || isNoSpace(err) || isReadOnly(err) {
		return stats, err
	}
	from, ok := p.from.(*registry.Repository)
	if !ok { // it is here: what cannot be read by parts cannot be read as a whole
		return stats, err
	}
	progress.note(fmt.Sprintf("layer %s is fetched as a whole: %v", l.DiffID.Short(), err))
	more, err := wholeBlob(ctx, e, s, from, l, desc, progress)
	stats.Fetched += more.Fetched
	stats.Requests += more.Requests
	stats.Reused, stats.Written, stats.Ranges = 0, more.Written, more.Ranges
	return stats, err
}

// whole is what a layer's blob costs that is not fetched by blocks.
func whole(l layout.Layer, desc ocispec.Descriptor) blocks.Stats {
	return blocks.Stats{Fetched: desc.Size, Written: l.Size, Ranges: 1, Requests: 1}
}

// wholeBlob fetches a layer's blob through containerd's content store, which takes up what was interrupted.
func wholeBlob(
	ctx context.Context,
	e *fetch.Engine,
	s *store.Store,
	from *registry.Repository,
	l layout.Layer,
	desc ocispec.Descriptor,
	progress Progress,
) (stats blocks.Stats, err error) {
	stats, before := whole(l, desc), e.Fetched()
	blob, err := e.Open(ctx, from, desc, fetch.Progress(progress))
	stats.Fetched = e.Fetched() - before
	if err != nil {
		return stats, err
	}
	defer blob.Close()
	_, err = s.WriteBlob(ctx, l, func(w *store.BlobWriter) error {
		buf := make([]byte, min(1<<20, l.Size))
		for off := int64(0); off < l.Size; off += int64(len(buf)) {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := buf[:min(int64(len(buf)), l.Size-off)]
			if _, err := io.ReadFull(blob, b); err != nil {
				return fmt.Errorf("blob %s: %w", desc.Digest, err)
			}
			if _, err := w.WriteAt(b, off); err != nil {
				return err
			}
		}
		return nil
	})
	return stats, err
}

// locals are the blobs that this node has, opened.
func (m *Machine) locals() (all []blocks.Local, done func()) {
	var files []*os.File
	seen := map[layout.Layer]bool{}
	for _, s := range []*store.Store{m.State, m.Recovery} {
		if s == nil {
			continue
		}
		layers, err := s.Blobs()
		if err != nil {
			continue // what cannot be read is no help
		}
		for _, l := range layers {
			if seen[l] {
				continue
			}
			if f, err := s.OpenBlob(l.DiffID); err == nil {
				all, files, seen[l] = append(all, blocks.Local{Layer: l, ReaderAt: f}), append(files, f), true
			}
		}
	}
	return all, func() {
		for _, f := range files {
			f.Close()
		}
	}
}
