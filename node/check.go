package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/packages"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// CheckOptions say what to check, beside what to upgrade to.
type CheckOptions struct {
	UpgradeOptions
	// Packages has the layers that the node does not have read from a registry, to tell of packages. They are not
	// kept.
	Packages bool
}

// CheckUpgrade says what [Machine.Upgrade] would do, and changes nothing: of a registry it asks what describes the
// image. That an upgrade would be refused is no error.
func (m *Machine) CheckUpgrade(ctx context.Context, o CheckOptions) (c api.UpgradeCheck, err error) {
	if err := m.installed(); err != nil {
		return c, err
	}
	c.Booted, c.Recovery = m.Boot.Release, o.Recovery
	refused := func(err error) (api.UpgradeCheck, error) {
		var r *RefusedError
		if !errors.As(err, &r) {
			return c, err
		}
		c.Outcome, c.Reason = api.OutcomeRefused, r.What
		return c, nil
	}
	target, err := m.target(o.UpgradeOptions)
	if err != nil {
		return refused(err)
	}
	elsewhere := *m
	elsewhere.Cache = "" // what has to be unpacked to be read is so in memory
	img, err := elsewhere.open(ctx, o.UpgradeOptions, source.Open)
	if err != nil {
		return refused(err)
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	c.Release, c.Version, c.Accepted = layout.ReleaseID(img.ConfigDigest), img.Version(), img.Accepted
	if err := m.compare(ctx, &c, img, o); err != nil {
		return c, err
	}
	if err := m.cost(ctx, &c, target, img); err != nil {
		return c, err
	}
	done, err := m.wouldChange(&c, target, img, o.UpgradeOptions)
	if err != nil {
		return refused(err)
	}
	c.Outcome = api.OutcomeUpgrade
	if done {
		c.Outcome = api.OutcomeNothing
		return c, nil
	}
	anchor, err := m.anchor()
	if err != nil {
		return c, err
	}
	if anchor != nil && !anchor.Warn {
		if _, err := m.signedSource(ctx, target, img, m.hasThen(target, img),
			m.withFloor(anchor, m.roleOf(target))); err != nil {
			return refused(err)
		}
	}
	return c, nil
}

// wouldChange goes through what an upgrade looks at before it fetches, and says whether all is there already.
func (m *Machine) wouldChange(
	c *api.UpgradeCheck,
	target *store.Store,
	img *source.Image,
	o UpgradeOptions,
) (done bool, err error) {
	if err := m.checkID(img.ConfigDigest); err != nil {
		return false, err
	}
	slots, err := m.ESP.State()
	if err != nil {
		return false, err
	}
	if o.Recovery {
		if (slots.Recovery == c.Release || slots.Trial.ID == c.Release) && m.complete(target, c.Release) {
			return true, nil
		}
	} else {
		if o.UnlessFailed {
			if err := m.refuseFailed(slots, api.Result{Release: c.Release, Version: c.Version}); err != nil {
				return false, err
			}
		}
		if active, ok := slots.Active(); ok && active.ID == c.Release && m.complete(target, c.Release) {
			return true, nil
		}
	}
	if err := readableBefore(target, img); err != nil {
		return false, err
	}
	stay := append(m.protected(slots), c.Release)
	gives, keep := int64(0), m.protected(slots)
	if o.Recovery { // its old release stays until the new one is there
		stay, keep = []string{c.Release}, recoveryKeeps(slots)
	}
	found, err := target.Releases()
	if err != nil {
		return false, err
	}
	for _, f := range found {
		if !slices.Contains(stay, f.ID) {
			c.Removed = append(c.Removed, f.ID)
		}
	}
	if c.Free < c.Write+reserve && !o.Recovery {
		gives = garbage(found, keep, img)
	}
	if c.Free+gives < c.Write+reserve {
		return false, refuse(
			"%s free, of which %s after removing what no role needs, where the image's new layers need about %s: "+
				"use a smaller image, or install again with a larger partition",
			mib(c.Free+gives),
			mib(gives),
			mib(c.Write+reserve),
		)
	}
	return false, nil
}

// garbage returns the size of the layers that neither a release in keep nor the image has.
func garbage(found []store.Found, keep []string, img *source.Image) (n int64) {
	needed, seen := map[layout.Digest]bool{}, map[layout.Digest]bool{}
	for _, l := range img.Layers {
		needed[l.DiffID] = true
	}
	for _, f := range found {
		for _, l := range f.Release.Layers {
			needed[l.DiffID] = needed[l.DiffID] || slices.Contains(keep, f.ID)
		}
	}
	for _, f := range found {
		for _, l := range f.Release.Layers {
			if !needed[l.DiffID] && !seen[l.DiffID] {
				n += l.Size
			}
			seen[l.DiffID] = true
		}
	}
	return n
}

// cost counts what would be fetched and written.
func (m *Machine) cost(ctx context.Context, c *api.UpgradeCheck, target *store.Store, img *source.Image) (err error) {
	if c.Free, err = m.freeBytes(target.Dir()); err != nil {
		return err
	}
	if c.Write, err = needed(target, img); err != nil {
		return err
	}
	c.Layers = len(img.Layers)
	has := m.hasThen(target, img)
	for _, l := range img.Layers {
		if _, ok, err := has(l.DiffID); err != nil {
			return err
		} else if ok {
			continue
		}
		if c.Missing++; inRegistry(img.Repository) {
			c.Fetch += l.Stored
		}
	}
	p := m.published(ctx, target, img, has, nil)
	if p == nil {
		return nil
	}
	s, err := m.forecast(ctx, target, p, has)
	c.Fetch, c.Reuse, c.Ranges, c.Requests = s.Fetched, s.Reused, s.Ranges, s.Requests
	return err
}

// hasThen says which of an image's layers a store has when an upgrade begins to fetch.
func (m *Machine) hasThen(s *store.Store, img *source.Image) hasLayer {
	return func(id layout.Digest) (layout.Layer, bool, error) {
		l, ok, err := s.Layer(id)
		if ok || err != nil || s == m.State {
			return l, ok, err
		}
		if !slices.ContainsFunc(img.Layers, func(l image.Layer) bool { return l.DiffID == id }) {
			return l, false, nil
		}
		l, ok = copied(m.State, img, id)
		return l, ok, nil
	}
}

var errNoLayer = errors.New("the layer is not on this node")

// anywhere finds a layer in one of several stores.
func (m *Machine) anywhere(id layout.Digest, stores ...*store.Store) (*store.Store, layout.Layer, error) {
	for _, s := range stores {
		if s == nil {
			continue
		}
		if l, ok, err := s.Layer(id); err != nil || ok {
			return s, l, err
		}
	}
	return nil, layout.Layer{}, errNoLayer
}

// compare says how the image differs from what runs.
func (m *Machine) compare(ctx context.Context, c *api.UpgradeCheck, img *source.Image, o CheckOptions) error {
	booted := store.New(m.bootedStore())
	r, err := booted.Release(m.Boot.Release)
	if err != nil {
		return err
	}
	c.Labels = differences(r.Labels, layout.ReleaseLabels(img.Config.Config.Labels))
	before, unknown, err := m.packagesOf(ctx, layersOf(r), true)
	if err != nil {
		return fmt.Errorf("packages of release %s: %w", r.ID(), err)
	}
	if unknown == "" {
		var after packages.Packages
		after, unknown, err = m.packagesOf(ctx, img.Layers, o.Packages || o.Source.Kind != source.Registry)
		if err != nil {
			return fmt.Errorf("packages of %s: %w", o.Source, err)
		}
		c.Packages = differences(before, after)
	}
	if c.PackagesUnknown = unknown; unknown != "" {
		c.Packages = nil
	}
	return nil
}

func layersOf(r layout.Release) (layers []image.Layer) {
	for _, l := range r.Layers {
		layers = append(layers, image.Layer{DiffID: l.DiffID})
	}
	return layers
}

// packagesOf reads which packages an image has, from the highest layer that says so. Layers that the node does not
// have are read from where the image is, if that may be; unknown says why nothing is known.
func (m *Machine) packagesOf(
	ctx context.Context,
	layers []image.Layer,
	read bool,
) (all packages.Packages, unknown string, err error) {
	var search packages.Search
	for n := len(layers) - 1; n >= 0; n-- {
		l := layers[n]
		s, have, err := m.anywhere(l.DiffID, store.New(m.bootedStore()), m.State, m.Recovery)
		switch {
		case errors.Is(err, errNoLayer) && (!read || l.Open == nil):
			return nil, fmt.Sprintf(
				"layer %s (%d of %d) is not on this node: --packages reads it from the registry, and does not keep it",
				l.DiffID.Short(),
				n+1,
				len(layers),
			), nil
		case errors.Is(err, errNoLayer):
			err = readTar(ctx, l, &search)
		case err == nil:
			err = readTree(s, have, &search)
		}
		if err != nil {
			return nil, "", fmt.Errorf("layer %s: %w", l.DiffID, err)
		}
		if all, err := search.Packages(); err != nil {
			return nil, err.Error(), nil
		} else if all != nil {
			return all, "", nil
		}
	}
	return nil, packages.None, nil
}

func readTree(s *store.Store, l layout.Layer, search *packages.Search) error {
	tree, err := s.Tree([]layout.Layer{l})
	if err != nil {
		return err
	}
	return errors.Join(search.Layer(tree.Layers()[0]), tree.Close())
}

func readTar(ctx context.Context, l image.Layer, search *packages.Search) error {
	r, err := l.Open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := search.Tar(r); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r) // which checks the digest of what was read
	return err
}

// differences lists what differs between two maps, by name, as a terminal may show it.
func differences[M ~map[string]string](before, after M) []api.Difference {
	all := api.Differences(before, after)
	for i, d := range all {
		all[i] = api.Difference{Name: printable(d.Name), Before: printable(d.Before), After: printable(d.After)}
	}
	return all
}
