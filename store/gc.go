package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
)

// Removed is what [Store.GC] removed.
type Removed struct {
	Releases []string
	Blobs    []layout.Digest
	Bytes    int64 // size of the blobs and of unfinished files
}

// GC removes the releases that are not in keep, the layers that no kept release has, and
// unfinished files that nobody is writing. Where a kept release cannot be read, nobody
// knows which layers it has: then GC removes nothing and says so.
func (s *Store) GC(ctx context.Context, keep []string) (Removed, error) {
	var done Removed
	found, err := s.Releases()
	if err != nil {
		return done, err
	}
	needed := map[layout.Digest]bool{}
	for _, f := range found {
		if !slices.Contains(keep, f.ID) {
			continue
		}
		if f.Err != nil {
			return done, fmt.Errorf("collect garbage: %w", f.Err)
		}
		for _, l := range f.Release.Layers {
			needed[l.DiffID] = true
		}
	}
	// Releases first: one must never list a layer that is gone.
	entries, err := os.ReadDir(s.path(layout.ReleasesDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return done, fmt.Errorf("collect garbage: %w", err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		if !e.IsDir() || !layout.ValidID(e.Name()) || slices.Contains(keep, e.Name()) {
			continue
		}
		if err := s.removeRelease(e.Name()); err != nil {
			return done, fmt.Errorf("collect garbage: %w", err)
		}
		done.Releases = append(done.Releases, e.Name())
	}
	if err := s.removeBlobs(ctx, needed, &done); err != nil {
		return done, fmt.Errorf("collect garbage: %w", err)
	}
	return done, nil
}

func (s *Store) removeBlobs(ctx context.Context, needed map[layout.Digest]bool, done *Removed) error {
	return s.walkBlobs(func(dir string, e fs.DirEntry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		path := filepath.Join(dir, e.Name())
		if isTemp(e) {
			size := fileSize(e)
			if err := s.fs.RemoveLeftovers(dir); err != nil {
				return err
			}
			if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
				done.Bytes += size
			}
			return nil
		}
		hex, isSidecar := strings.CutSuffix(e.Name(), ".erofs.dmverity")
		if !isSidecar {
			hex, _ = strings.CutSuffix(e.Name(), ".erofs")
		}
		diffID, err := layout.ParseDigest("sha256:" + hex)
		if err != nil || needed[diffID] {
			return nil // not ours, or needed
		}
		if !isSidecar {
			done.Blobs = append(done.Blobs, diffID)
			done.Bytes += fileSize(e)
		}
		return s.removeBlob(diffID)
	})
}

// walkBlobs calls do for each file in the folders of blobs.
func (s *Store) walkBlobs(do func(dir string, e fs.DirEntry) error) error {
	root := filepath.Join(s.path(layout.BlobsDir), "sha256")
	dirs, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, d := range dirs {
		dir := filepath.Join(root, d.Name())
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := do(dir, e); err != nil {
				return err
			}
		}
	}
	return nil
}

func fileSize(e fs.DirEntry) int64 {
	if info, err := e.Info(); err == nil {
		return info.Size()
	}
	return 0
}

// eachBlob calls do for the diffID of each blob.
func (s *Store) eachBlob(do func(layout.Digest) error) error {
	return s.walkBlobs(func(_ string, e fs.DirEntry) error {
		hex, ok := strings.CutSuffix(e.Name(), ".erofs")
		id, err := layout.ParseDigest("sha256:" + hex)
		if !ok || err != nil {
			return nil // a sidecar, or none of ours
		}
		return do(id)
	})
}
