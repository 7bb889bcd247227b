package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/image/medium"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

// inspectFile looks at an ISO or a disk.
func inspectFile(name string) (*api.Inspection, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, errors.Unwrap(err) // the caller names the file
	}
	defer f.Close()
	m, err := source.Medium(f)
	if errors.Is(err, disk.ErrNoMedium) {
		return nil, fmt.Errorf("%w; if it is an image in a tar, write oci-archive:%s or docker-archive:%s",
			err, name, name)
	}
	if err != nil {
		return nil, err
	}
	found := &api.Inspection{
		Kind: m.Format, Size: m.Size, SectorSize: m.SectorSize, Releases: []api.Release{},
		Configs: m.Configs, Problems: m.Problems,
	}
	for _, v := range m.Volumes {
		found.Partitions = append(found.Partitions, api.Partition{
			Number: v.Number, Name: v.Name, Type: v.Type, GUID: v.GUID, Start: v.Start, Size: v.Size, FS: v.FS,
			Label: v.Label,
		})
	}
	for _, e := range m.State.All() {
		found.Entries = append(found.Entries, api.BootEntry{
			Release: e.ID, Sequence: e.Seq, Blessed: e.Blessed(), TriesLeft: int(e.Left), TriesUsed: int(e.Done),
		})
	}
	for _, b := range m.BootFiles {
		found.BootFiles = append(found.BootFiles, api.BootFile{Path: b.Path, Size: b.Size, Cmdline: b.Cmdline})
	}
	for _, r := range m.Releases {
		found.Releases = append(found.Releases, mediumRelease(m, r))
	}
	return found, nil
}

// mediumRelease describes a release, and what others on the medium have of it.
func mediumRelease(m *medium.Medium, r medium.Release) api.Release {
	a := api.Release{
		Release: r.ID(), Version: r.Version, Place: r.Place, Role: r.Role, Image: r.Release.Image,
		ConfigDigest: string(r.Config),
		Arch:         r.Arch, Created: &r.Time, Labels: r.Labels, Cmdline: cmdlineOf(m, r.ID()),
	}
	seen := map[layout.Digest]bool{}
	for _, l := range r.Layers {
		layer := api.Layer{DiffID: string(l.DiffID), Size: verity.TotalSize(l.Size), RootHash: l.RootHash}
		for _, other := range m.Releases {
			if other.ID() != r.ID() && slices.Contains(other.Layers, l) &&
				!slices.Contains(layer.SharedWith, other.ID()) {
				layer.SharedWith = append(layer.SharedWith, other.ID())
			}
		}
		a.Layers = append(a.Layers, layer)
		if seen[l.DiffID] {
			continue // a release may have a layer twice
		}
		seen[l.DiffID] = true
		a.Size += layer.Size
		if len(layer.SharedWith) > 0 {
			a.Shared += layer.Size
		}
	}
	return a
}

// cmdlineOf returns a release's command line: of an ISO the only one, of a disk that of its entry.
func cmdlineOf(m *medium.Medium, id string) string {
	for _, b := range m.BootFiles {
		if b.Cmdline != "" && (m.Format == api.KindISO || b.Release == id) {
			return b.Cmdline
		}
	}
	return ""
}
