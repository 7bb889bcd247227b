package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node"
	"github.com/kairos-buildkit/kairos/node/fetch"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/release/blocks"
	"github.com/kairos-buildkit/kairos/store"
)

// The ways that a layer comes from a registry into a node's store.
const (
	byBlock   = "block"   // the release's blob, of which the blocks that are not here are fetched
	byLayer   = "layer"   // the release's blob as a whole
	byConvert = "convert" // the image's layer, converted here
)

// stage brings the layers of an image that a store has not into it, as a node does, as a process of its own. It writes
// what was fetched by blocks to its standard output, as JSON.
func stage(ctx context.Context, args []string) (err error) {
	if len(args) != 3 {
		return errors.New("usage: kairos-bench stage block|layer|convert REF DIR")
	}
	debug.SetGCPercent(node.GCPercent) // as kairos-apply does
	ref, dir := args[1], args[2]
	state := store.New(filepath.Join(dir, "state"))
	if err := os.MkdirAll(state.Dir(), 0o755); err != nil {
		return err
	}
	e, err := fetch.Embedded(filepath.Join(dir, "cache"), filepath.Join(state.Dir(), layout.BlobsDir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	ctx, leave, err := e.WithLease(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave(err)) }()
	where := source.Options{Registry: registry.Options{AuthFiles: []string{}}}
	img, err := e.Image(ctx, source.Ref{Kind: source.Registry, Name: ref}, where, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	if args[0] == byConvert {
		for _, l := range img.Layers {
			if _, ok, err := state.Layer(l.DiffID); err != nil {
				return err
			} else if ok {
				continue
			}
			tar, err := l.Open(ctx)
			if err != nil {
				return err
			}
			o := erofs.Options{Compression: erofs.Zstd}
			_, err = state.AddLayer(ctx, l.DiffID, tar, o)
			if err := errors.Join(err, tar.Close()); err != nil {
				return err
			}
		}
		return nil
	}
	a, err := release.Find(ctx, img.Repository, layout.Digest(img.Manifest.Digest))
	if err != nil {
		return err
	}
	var total blocks.Stats
	for i, l := range a.Release.Layers {
		if _, ok, err := state.Layer(l.DiffID); err != nil {
			return err
		} else if ok {
			continue
		}
		if args[0] == byLayer {
			err = stageBlob(ctx, e, state, img, a, i)
		} else {
			err = stageBlocks(ctx, state, img, a, i, &total)
		}
		if err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(total)
}

// stageBlob fetches the blob of a layer through containerd's content store.
func stageBlob(
	ctx context.Context, e *fetch.Engine, state *store.Store, img *source.Image, a release.Artifact, i int,
) error {
	from, ok := img.Repository.(*registry.Repository)
	if !ok {
		return fmt.Errorf("%s is in no registry", img.Ref)
	}
	blob, err := e.Open(ctx, from, a.Blobs[i], nil)
	if err != nil {
		return err
	}
	l := a.Release.Layers[i]
	_, err = state.WriteBlob(ctx, l, func(w *store.BlobWriter) error {
		buf := make([]byte, min(1<<20, l.Size))
		for off := int64(0); off < l.Size; off += int64(len(buf)) {
			b := buf[:min(int64(len(buf)), l.Size-off)]
			if _, err := io.ReadFull(blob, b); err != nil {
				return err
			}
			if _, err := w.WriteAt(b, off); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, blob.Close())
}

// stageBlocks fetches those blocks of a layer's blob that none here has.
func stageBlocks(
	ctx context.Context, state *store.Store, img *source.Image, a release.Artifact, i int, total *blocks.Stats,
) error {
	have, err := state.Blobs()
	if err != nil {
		return err
	}
	var locals []blocks.Local
	for _, l := range have {
		f, err := state.OpenBlob(l.DiffID)
		if err != nil {
			return err
		}
		defer f.Close()
		locals = append(locals, blocks.Local{Layer: l, ReaderAt: f})
	}
	remote := func(ctx context.Context, off, n int64) (io.ReadCloser, error) {
		return img.Repository.Range(ctx, a.Blobs[i], off, n)
	}
	l := a.Release.Layers[i]
	plan, err := blocks.Look(ctx, l, remote, locals)
	if err != nil {
		return err
	}
	_, err = state.WriteBlob(ctx, l, func(w *store.BlobWriter) error {
		stats, err := plan.Write(ctx, remote, w, nil)
		total.Add(stats)
		return err
	})
	return err
}
