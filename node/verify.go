package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// VerifyOptions say how to verify.
type VerifyOptions struct {
	// Repair copies or fetches again what is damaged.
	Repair   bool
	Registry registry.Options
	Progress Progress
}

// DamagedError says that damage was found that is left.
type DamagedError struct{ What string }

func (e *DamagedError) Error() string { return e.What }

// Verify reads all that this node may boot, and compares it with its digests: the layers of each release against
// the root hashes in its release.json, the boot files against those that the layers hold, and what
// was fetched for later. The error is a *[DamagedError] where damage is left.
func (m *Machine) Verify(ctx context.Context, o VerifyOptions) (api.Verification, error) {
	v := &verification{m: m, o: o, result: api.Verification{Damage: []api.Damage{}}}
	if err := v.run(ctx); err != nil {
		return v.result, fmt.Errorf("verify: %w", err)
	}
	if v.result.Whole() {
		return v.result, nil
	}
	what := "damage was found: `kairos-apply verify --repair` fetches or copies what is damaged again"
	if o.Repair {
		what = "damage is left that could not be repaired: see the advice above"
	}
	return v.result, &DamagedError{what}
}

// verification is one run.
type verification struct {
	m      *Machine
	o      VerifyOptions
	result api.Verification
}

func (v *verification) run(ctx context.Context) error {
	if v.m.Boot.Role == layout.RoleLive {
		return v.store(ctx, api.PlaceMedium, store.New(v.m.bootedStore()), nil)
	}
	if v.m.State != nil {
		if err := v.store(ctx, api.PlaceState, v.m.State, v.m.Recovery); err != nil {
			return err
		}
	}
	if v.m.Recovery != nil {
		if err := v.store(ctx, api.PlaceRecovery, v.m.Recovery, v.m.State); err != nil {
			return err
		}
	}
	if err := v.bootFiles(ctx); err != nil {
		return err
	}
	return v.cache(ctx)
}

// store verifies one store. other is where the same bytes may be.
func (v *verification) store(ctx context.Context, place string, s, other *store.Store) error {
	found, err := s.Releases()
	if err != nil {
		return err
	}
	users := map[layout.Layer][]string{}
	var layers []layout.Layer // in an order that is the same each time
	images := map[layout.Layer]layout.Release{}
	for _, f := range found {
		v.result.Releases++
		r := f.Release
		if f.Err != nil {
			if r, err = v.releaseFile(place, s, other, f); err != nil {
				return err
			}
		}
		for _, l := range r.Layers {
			if len(users[l]) == 0 {
				layers, images[l] = append(layers, l), r
			}
			if !slices.Contains(users[l], f.ID) {
				users[l] = append(users[l], f.ID)
			}
		}
	}
	for n, l := range layers {
		v.o.Progress.step(api.StepVerify, fmt.Sprintf("%s (%d of %d)", l.DiffID.Short(), n+1, len(layers)))
		if err := ctx.Err(); err != nil {
			return err
		}
		v.result.Layers++
		v.result.Bytes += l.Size
		problem := blobProblem(s, l)
		if problem == nil {
			continue
		}
		d := api.Damage{Place: place, Object: string(l.DiffID), Releases: users[l], Problem: problem.Error()}
		if v.o.Repair {
			d.Repaired, d.Advice = v.repairLayer(ctx, s, l, images[l])
		}
		v.result.Damage = append(v.result.Damage, d)
	}
	return nil
}

// blobProblem says what is wrong with a layer's blob.
func blobProblem(s *store.Store, want layout.Layer) error {
	have, ok, err := s.Layer(want.DiffID)
	switch {
	case err != nil:
		return err
	case !ok:
		return errors.New("its blob is missing or incomplete")
	case have != want:
		return errors.New("its blob is not the one that the release lists")
	}
	return s.VerifyBlob(want)
}

// repairLayer brings a layer's bytes from another store, else from the image. It returns where they came
// from, or what a person can do.
func (v *verification) repairLayer(
	ctx context.Context,
	s *store.Store,
	l layout.Layer,
	r layout.Release,
) (from, advice string) {
	if v.m.copyGood(ctx, s, l) {
		return "copied from the other partition", ""
	}
	if err := v.m.refetch(ctx, s, l, r, v.o); err != nil {
		return "", fmt.Sprintf(
			"it could not be fetched again: %v. Upgrade to another image, "+
				"or `kairos-apply reset` in the recovery system",
			err,
		)
	}
	return "fetched again from " + r.Image, ""
}

// releaseFile repairs a release.json that cannot be read, from the other store.
func (v *verification) releaseFile(place string, s, other *store.Store, f store.Found) (layout.Release, error) {
	d := api.Damage{Place: place, Object: layout.ReleasePath(f.ID), Releases: []string{f.ID}, Problem: f.Err.Error()}
	var r layout.Release
	if v.o.Repair {
		d.Advice = "upgrade to its image again"
		if other != nil {
			var err error
			if r, err = other.Release(f.ID); err == nil {
				if err = s.AddRelease(r); err == nil {
					d.Repaired, d.Advice = "copied from the other partition", ""
				}
			}
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		}
	}
	v.result.Damage = append(v.result.Damage, d)
	if d.Repaired == "" {
		return layout.Release{}, nil
	}
	return r, nil
}
