package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
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

// garbage is what a store does not need.
type garbage struct {
	releases []string
	blobs    []fs.DirEntry // and sidecars, by their names
	temps    []string      // folders with unfinished files
}

// garbage finds the releases that are not in keep, the layers that no kept release has, and unfinished files.
func (v View) garbage(keep []string) (g garbage, err error) {
	dirs, err := readDir(v.FS, layout.ReleasesDir)
	if err != nil {
		return g, err
	}
	needed := map[layout.Digest]bool{}
	for _, d := range dirs {
		if !d.IsDir() || !layout.ValidID(d.Name()) {
			continue
		}
		if !slices.Contains(keep, d.Name()) {
			g.releases = append(g.releases, d.Name())
			continue
		}
		r, err := v.Release(d.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // its folder was made or emptied, and then came the crash
		}
		if err != nil {
			return g, err
		}
		for _, l := range r.Layers {
			needed[l.DiffID] = true
		}
	}
	err = v.walkBlobs(func(dir string, e fs.DirEntry) error {
		if isTemp(e) {
			if len(g.temps) == 0 || g.temps[len(g.temps)-1] != dir {
				g.temps = append(g.temps, dir)
			}
		} else if diffID, _, ok := blobOf(e); ok && !needed[diffID] {
			g.blobs = append(g.blobs, e)
		}
		return nil
	})
	return g, err
}

// blobOf returns the layer that a file's name stands for: its blob, or the sidecar of that.
func blobOf(e fs.DirEntry) (diffID layout.Digest, sidecar, ok bool) {
	hex, sidecar := strings.CutSuffix(e.Name(), ".erofs.dmverity")
	if !sidecar {
		hex, _ = strings.CutSuffix(e.Name(), ".erofs")
	}
	diffID, err := layout.ParseDigest("sha256:" + hex)
	return diffID, sidecar, err == nil
}

// Clean says whether [Store.GC] would find nothing to remove.
func (v View) Clean(keep []string) (bool, error) {
	g, err := v.garbage(keep)
	return len(g.releases)+len(g.blobs)+len(g.temps) == 0, err
}

// GC removes the releases that are not in keep, the layers that no kept release has, and
// unfinished files that nobody is writing. Where a kept release cannot be read, nobody
// knows which layers it has: then GC removes nothing and says so.
func (s *Store) GC(ctx context.Context, keep []string) (Removed, error) {
	var done Removed
	g, err := s.view().garbage(keep)
	if err == nil {
		err = s.removeGarbage(ctx, g, &done)
	}
	if err != nil {
		return done, fmt.Errorf("collect garbage: %w", err)
	}
	return done, nil
}

func (s *Store) removeGarbage(ctx context.Context, g garbage, done *Removed) error {
	// Releases first: one must never list a layer that is gone.
	for _, id := range g.releases {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.removeRelease(id); err != nil {
			return err
		}
		done.Releases = append(done.Releases, id)
	}
	for _, dir := range g.temps {
		before, err := tempSize(s.path(dir))
		if err == nil {
			err = s.fs.RemoveLeftovers(s.path(dir))
		}
		if err != nil {
			return err
		}
		after, err := tempSize(s.path(dir))
		if err != nil {
			return err
		}
		done.Bytes += before - after
	}
	for _, e := range g.blobs {
		if err := ctx.Err(); err != nil {
			return err
		}
		diffID, sidecar, _ := blobOf(e)
		if !sidecar {
			done.Blobs = append(done.Blobs, diffID)
			done.Bytes += fileSize(e)
		}
		if err := s.removeBlob(diffID); err != nil {
			return err
		}
	}
	return nil
}

// tempSize returns the size of the unfinished files in a folder.
func tempSize(dir string) (n int64, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if isTemp(e) {
			n += fileSize(e)
		}
	}
	return n, err
}

// readDir is fs.ReadDir; a folder that does not exist has nothing in it.
func readDir(f fs.FS, name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(f, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

// walkBlobs calls do for each file in the folders of blobs.
func (v View) walkBlobs(do func(dir string, e fs.DirEntry) error) error {
	root := layout.BlobsDir + "/sha256"
	dirs, err := readDir(v.FS, root)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		dir := root + "/" + d.Name()
		entries, err := fs.ReadDir(v.FS, dir)
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
	return s.view().walkBlobs(func(_ string, e fs.DirEntry) error {
		hex, ok := strings.CutSuffix(e.Name(), ".erofs")
		id, err := layout.ParseDigest("sha256:" + hex)
		if !ok || err != nil {
			return nil // a sidecar, or none of ours
		}
		return do(id)
	})
}
