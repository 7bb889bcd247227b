package fetch

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/kairos-buildkit/kairos/layout"
)

// releaseLabel marks the topmost snapshot of a release.
const releaseLabel = "io.kairos.release"

// CommitSnapshots makes a release's layers a chain of committed snapshots, named by chain
// ID as containerd's own unpacker does it. The layers' blobs are in the snapshotter's layer
// content cache, so that nothing is copied. A snapshotter that does not have our blobs as its
// cache is left alone: then ok is false.
func (e *Engine) CommitSnapshots(ctx context.Context, id string, layers []layout.Layer) (ok bool, err error) {
	if e.snapshots == nil {
		return false, nil
	}
	var chain []digest.Digest
	parent := ""
	for _, l := range layers {
		chain = append(chain, digest.Digest(l.DiffID))
		name := identity.ChainID(chain).String()
		if _, err := e.snapshots.Stat(ctx, name); err == nil {
			parent = name
			continue
		}
		key := "kairos-extract " + name
		labels := map[string]string{
			snapshots.LabelSnapshotRef:    name,
			snapshots.LabelSnapshotDiffID: string(l.DiffID),
			releaseLabel:                  id,
		}
		if l == layers[len(layers)-1] {
			labels["containerd.io/gc.root"] = "kairos"
		}
		mounts, err := e.snapshots.Prepare(ctx, key, parent, snapshots.WithLabels(labels))
		if errdefs.IsAlreadyExists(err) {
			if err := e.snapshots.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
				return false, fmt.Errorf("snapshot %s: %w", name, err)
			}
			mounts, err = e.snapshots.Prepare(ctx, key, parent, snapshots.WithLabels(labels))
		}
		if err != nil {
			return false, fmt.Errorf("snapshot %s: %w", name, err)
		}
		if !populated(mounts) {
			return false, e.snapshots.Remove(ctx, key)
		}
		if err := e.snapshots.Commit(ctx, name, key, snapshots.WithLabels(labels)); err != nil &&
			!errdefs.IsAlreadyExists(err) {
			return false, fmt.Errorf("snapshot %s: %w", name, err)
		}
		parent = name
	}
	return true, nil
}

// populated says whether a snapshot came with its content: then all its mounts are read-only.
func populated(mounts []mount.Mount) bool {
	for _, m := range mounts {
		ro := false
		for _, o := range m.Options {
			ro = ro || o == "ro"
			if strings.HasPrefix(o, "upperdir=") {
				return false
			}
		}
		if !ro && m.Type != "overlay" && !strings.HasSuffix(m.Type, "/overlay") {
			return false
		}
	}
	return len(mounts) > 0
}

// RemoveSnapshots removes the chains of releases that are not in keep, so that their blobs
// can go.
func (e *Engine) RemoveSnapshots(ctx context.Context, keep []string) error {
	if e.snapshots == nil {
		return nil
	}
	kept := map[string]bool{}
	for _, id := range keep {
		kept[id] = true
	}
	parents := map[string]string{}
	var tops, ours []string
	err := e.snapshots.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		parents[i.Name] = i.Parent
		if id := i.Labels[releaseLabel]; id != "" {
			ours = append(ours, i.Name)
			if i.Labels["containerd.io/gc.root"] != "" && kept[id] {
				tops = append(tops, i.Name)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	needed := map[string]bool{}
	for _, name := range tops {
		for ; name != ""; name = parents[name] {
			needed[name] = true
		}
	}
	// Children before their parents: a name that cannot go yet goes in a later round.
	for range ours {
		removed := false
		for _, name := range ours {
			if needed[name] {
				continue
			}
			switch err := e.snapshots.Remove(ctx, name); {
			case err == nil:
				needed[name] = true // done with it
				removed = true
			case errdefs.IsNotFound(err):
				needed[name] = true
			case errdefs.IsFailedPrecondition(err): // it has children
			default:
				return fmt.Errorf("snapshot %s: %w", name, err)
			}
		}
		if !removed {
			break
		}
	}
	return nil
}
