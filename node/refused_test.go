package node

import (
	"crypto/ed25519"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
	"github.com/kairos-buildkit/kairos/trust/trusttest"
)

// content is all that is on a fake disk: each file with its bytes, and each folder.
func content(t *testing.T, disk string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(disk, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			all[name] = "folder"
			return err
		}
		b, err := os.ReadFile(name)
		all[name] = sum(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func sameContent(t *testing.T, what, disk string, before map[string]string) {
	t.Helper()
	after := content(t, disk)
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if before[name] != after[name] {
			t.Errorf("%s: %s was written", what, name)
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			t.Errorf("%s: %s is gone", what, name)
		}
	}
}

// hostileList is a release beside its list of signatures, as somebody leaves it who has no key.
type hostileList struct {
	change     func(*layout.Release)                              // of a release that the keys have signed
	signatures func(t *testing.T, record []byte) trust.Signatures // instead of the genuine ones
	want       string
}

func signedBy(t *testing.T, record []byte, keys []sign.Key) trust.Signatures {
	t.Helper()
	s, err := sign.All(record, keys)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// hostileLists are all ways to have a node boot something that two of its three keys have not signed.
func hostileLists(t *testing.T, keys []sign.Key) map[string]hostileList {
	t.Helper()
	stranger := newKey(t)
	by := func(t *testing.T, record []byte, keys ...sign.Key) trust.Signatures { return signedBy(t, record, keys) }
	only := func(keys ...sign.Key) func(*testing.T, []byte) trust.Signatures {
		return func(t *testing.T, record []byte) trust.Signatures { return by(t, record, keys...) }
	}
	otherRelease := func(t *testing.T, record []byte) trust.Signatures {
		r, err := layout.ParseRelease(record)
		if err != nil {
			t.Fatal(err)
		}
		r.Version += ", another one"
		return by(t, must(t, r), keys...)
	}
	asAnother := func(t *testing.T, record []byte) trust.Signatures {
		s := by(t, record, keys[0])
		as := s[0]
		as.Key = keys[1].ID
		s = append(s, as)
		s.Sort()
		return s
	}
	const none = "is not one of this release.json"
	return map[string]hostileList{
		"not signed":                {signatures: only(), want: "it is not signed"},
		"by strangers":              {signatures: only(stranger, newKey(t)), want: "0 of 2 signatures"},
		"one of two":                {signatures: only(keys[2]), want: "1 of 2 signatures"},
		"one and a stranger":        {signatures: only(keys[2], stranger), want: "1 of 2 signatures"},
		"one, and again as another": {signatures: asAnother, want: "1 of 2 signatures"},
		"another release's":         {signatures: otherRelease, want: none},
		"for another domain": {signatures: func(t *testing.T, record []byte) trust.Signatures {
			return foreign(t, keys, record)
		}, want: none},
		"its top layer dropped": {change: func(r *layout.Release) {
			r.Layers = r.Layers[:len(r.Layers)-1]
		}, want: none},
		"layers reordered": {change: func(r *layout.Release) {
			r.Layers[0], r.Layers[1] = r.Layers[1], r.Layers[0]
		}, want: none},
		"a layer twice": {change: func(r *layout.Release) { r.Layers = append(r.Layers, r.Layers[0]) }, want: none},
		"a root exchanged": {change: func(r *layout.Release) {
			r.Layers[1].RootHash = strings.Repeat("b", 64)
		}, want: none},
		"a higher epoch": {change: func(r *layout.Release) { r.Epoch = 7 }, want: none},
	}
}

// foreign are signatures of two keys over the file itself, and not over what says that it is a release.
func foreign(t *testing.T, keys []sign.Key, record []byte) (all trust.Signatures) {
	t.Helper()
	for _, k := range keys[:2] {
		b, err := k.PrivatePEM()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, trust.Signature{
			Key: k.ID, Algorithm: k.Algorithm, Signature: ed25519.Sign(privateKey(t, b), record),
		})
	}
	all.Sort()
	return all
}

// apply returns the release as it lies there, and its signatures.
func (h hostileList) apply(t *testing.T, r layout.Release, keys []sign.Key) (layout.Release, trust.Signatures) {
	t.Helper()
	record := must(t, r)
	s := signedBy(t, record, keys[:2])
	if h.signatures != nil {
		s = h.signatures(t, record)
	}
	r.Layers = slices.Clone(r.Layers)
	if h.change != nil {
		h.change(&r)
	}
	r.Signatures = nil
	if len(s) > 0 {
		b, err := s.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		r.Signatures = b
	}
	return r, s
}

// leave writes a release into a store past all checks, with what containerd's sidecars say of its layers.
func leave(t *testing.T, s *store.Store, id string, r layout.Release) {
	t.Helper()
	files := map[string][]byte{layout.ReleasePath(id): must(t, r)}
	signatures := filepath.Join(s.Dir(), layout.ReleaseSignaturesPath(id))
	if len(r.Signatures) > 0 {
		files[layout.ReleaseSignaturesPath(id)] = r.Signatures
	} else if err := os.RemoveAll(signatures); err != nil {
		t.Fatal(err)
	}
	for _, l := range r.Layers {
		files[layout.SidecarPath(l.DiffID)] = layout.Sidecar{RootHash: l.RootHash, HashOffset: l.Size}.Marshal()
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(s.Dir(), name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// threeKeys are keys of which two have to sign.
func threeKeys(t *testing.T) ([]sign.Key, trust.Anchor) {
	t.Helper()
	keys := []sign.Key{newKey(t), newKey(t), newKey(t)}
	return keys, trusttest.Anchor(2, keys...)
}

// Whatever lies on STATE or on a live medium, a sealed system neither goes back to it nor installs it, unless its keys
// have signed just that. Nothing is written before that is known.
func TestSealedStoreRefuses(t *testing.T) {
	keys, anchor := threeKeys(t)
	a, b, _ := threeImages(t)
	disk := t.TempDir()
	m := install(t, disk, "uefi", t.TempDir(), a)
	if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()}); err != nil {
		t.Fatal(err)
	}
	m.Boot.Release = b.id
	if _, err := m.Bless(Verdict{}); err != nil {
		t.Fatal(err)
	}
	seal(t, m, anchor)
	genuine, err := m.State.Release(a.id)
	if err != nil {
		t.Fatal(err)
	}
	// The same release on a live medium.
	mediumDir := t.TempDir()
	install(t, mediumDir, "uefi", t.TempDir(), a)
	medium := store.New(filepath.Join(mediumDir, stateDir))
	force := InstallOptions{Config: config.Merge(config.Parse("c", []byte("install: {force: true}")))}
	live := *m
	live.Boot.Role = layout.RoleLive
	doors := map[string]func() error{
		"rollback": func() error {
			_, err := m.Rollback(t.Context(), a.id, nil)
			return err
		},
		"install": func() error {
			r, err := medium.Release(a.id)
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = live.system(medium, r, force)
			return err
		},
		"install onto partitions that are kept": func() error {
			r, err := medium.Release(a.id)
			if err != nil {
				t.Fatal(err)
			}
			return m.adopt(t.Context(), medium, r, force)
		},
	}
	lists := hostileLists(t, keys)
	lists["an old one"] = hostileList{signatures: func(t *testing.T, record []byte) trust.Signatures {
		return signedBy(t, record, keys)
	}, want: "its epoch is 0"}
	for name, h := range lists {
		r, _ := h.apply(t, genuine, keys)
		leave(t, m.State, a.id, r)
		leave(t, medium, a.id, r)
		late := anchor
		if name == "an old one" {
			late.Epoch = 1
		}
		seal(t, m, late)
		before := content(t, disk)
		for door, open := range doors {
			wantRefused(t, open(), "the running system asks for signatures: release "+a.id)
			wantRefused(t, open(), h.want)
			sameContent(t, name+", "+door, disk, before)
		}
	}
	// What the keys have signed is installed, and gone back to.
	seal(t, m, anchor)
	good, _ := hostileList{}.apply(t, genuine, keys)
	leave(t, medium, a.id, good)
	leave(t, m.State, a.id, good)
	if _, err := m.Rollback(t.Context(), a.id, nil); err != nil {
		t.Error(err)
	}
	if err := doors["install onto partitions that are kept"](); err != nil {
		t.Error(err)
	}
}

// Whatever a registry has beside an image, a sealed system takes nothing of it, as its active or its recovery system,
// unless its keys have signed just that; and the command that only asks says so before.
func TestSealedRegistryRefuses(t *testing.T) {
	keys, anchor := threeKeys(t)
	a, b, _ := threeImages(t)
	// What does not fit its image is refused for that.
	misfits := []string{"its top layer dropped", "layers reordered", "a layer twice"}
	for name, h := range hostileLists(t, keys) {
		t.Run(name, func(t *testing.T) {
			reg, src, art := beside(t, install(t, t.TempDir(), "uefi", t.TempDir(), a), b)
			repo, _, err := registry.Find(t.Context(), src.Name, registry.Options{AuthFiles: []string{}})
			if err != nil {
				t.Fatal(err)
			}
			changed, s := h.apply(t, art.Release, keys)
			changed.Signatures = nil
			bad := art
			bad.Release, bad.Blobs = changed, slices.Clone(art.Blobs)
			switch name {
			case "its top layer dropped":
				bad.Blobs = bad.Blobs[:len(changed.Layers)]
			case "layers reordered":
				bad.Blobs[0], bad.Blobs[1] = bad.Blobs[1], bad.Blobs[0]
			case "a layer twice":
				bad.Blobs = append(bad.Blobs, bad.Blobs[0])
			}
			if len(s) > 0 {
				if _, err := release.AddSignatures(t.Context(), repo, bad, s); err != nil {
					t.Fatal(err)
				}
			}
			disk := t.TempDir()
			m := install(t, disk, "uefi", t.TempDir(), a)
			bootedFrom(t, m, disk)
			seal(t, m, anchor)
			before := content(t, disk)
			reg.reset(nil)
			want := h.want
			if slices.Contains(misfits, name) {
				want = "release " + b.id
			}
			for _, recovery := range []bool{false, true} {
				_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src, Recovery: recovery})
				wantRefused(t, err, "the running system asks for signatures")
				wantRefused(t, err, want)
				sameContent(t, name, disk, before)
			}
			for i, blob := range art.Blobs {
				if n := reg.blobs[blob.Digest.Encoded()]; n != 0 {
					t.Errorf("%d bytes of layer %d were fetched", n, i+1)
				}
			}
			check, err := m.CheckUpgrade(t.Context(), CheckOptions{UpgradeOptions: UpgradeOptions{Source: src}})
			if err != nil || !strings.Contains(check.Reason, want) {
				t.Errorf("%+v, %v", check, err)
			}
			// Beside all that, what the keys have signed is found.
			signs(t, src, art, keys[1], keys[2])
			if r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src}); err != nil || !r.Changed {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

// epochs are two releases beside their images, signed by a key: one before, and one behind a rise of the epoch.
func epochs(t *testing.T, key sign.Key) (images [2]testImage, refs [2]source.Ref) {
	t.Helper()
	base := tarOf(t, map[string]string{"etc/base": strings.Repeat("base", 3000)})
	for i, epoch := range []string{"1", "2"} {
		images[i] = labelledImage(t, map[string]string{layout.ImageLabelEpoch: epoch}, runtime.GOARCH,
			base, tarOf(t, map[string]string{"etc/epoch": epoch}), bootLayer(t, "loader 1"))
	}
	for i := range images {
		var art release.Artifact
		_, refs[i], art = beside(t, install(t, t.TempDir(), "uefi", t.TempDir(), images[1-i]), images[i])
		signs(t, refs[i], art, key)
	}
	return images, refs
}

// Over a rise of the epoch the passive release is what the loader falls back to, until the new one is blessed and
// after; no command goes back below the floor of the system that runs. The recovery system has its own floor, which
// rises with the recovery system.
func TestEpochRise(t *testing.T) {
	key := newKey(t)
	images, refs := epochs(t, key)
	a, b := images[0], images[1]
	floor := func(epoch int64) trust.Anchor {
		anchor := anchorOf(key)
		anchor.Epoch = epoch
		return anchor
	}
	floors := map[string]int64{a.id: 1, b.id: 2}
	for _, firmware := range []string{"uefi", "bios"} {
		t.Run(firmware, func(t *testing.T) {
			disk := t.TempDir()
			m := install(t, disk, firmware, t.TempDir(), b)
			m.bootFiles = func(s *store.Store, r layout.Release, p Progress) (loader.BootFiles, bootFacts, error) {
				files, facts, err := fakeBootFiles(s, r, p)
				own := floor(floors[r.ID()])
				facts.anchor = &own
				return files, facts, err
			}
			// starts is what /init does when the loader starts a release: its own trust.json is what counts.
			starts := func(what, id string, role string) {
				t.Helper()
				s := m.State
				if role == layout.RoleRecovery {
					s = m.Recovery
				}
				r, err := s.Release(id)
				if err == nil {
					_, err = floor(floors[id]).Check(r, runtime.GOARCH)
				}
				if err != nil {
					t.Errorf("%s: /init refuses %s: %v", what, id, err)
				}
				m.Boot.Release, m.Boot.Role = id, role
				seal(t, m, floor(floors[id]))
			}
			upgrade := func(to source.Ref, recovery bool) error {
				_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: to, Recovery: recovery, NoTrial: true})
				return err
			}
			order := func(what string, want ...string) {
				t.Helper()
				boots, err := bootable(disk, firmware)
				var got []string
				for _, e := range boots {
					got = append(got, e.ID)
				}
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("%s: boots %q, want %q: %v", what, got, want, err)
				}
			}
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			// The machine is at the old epoch with both systems.
			for _, recovery := range []bool{true, false} {
				must(upgrade(refs[0], recovery))
			}
			starts("at first", a.id, layout.RoleSystem)
			_, err := m.Bless(Verdict{})
			must(err)

			must(upgrade(refs[1], false))
			order("staged", b.id, a.id, a.id)
			starts("on trial", b.id, layout.RoleSystem)
			before := content(t, disk)
			_, err = m.Rollback(t.Context(), "", nil)
			wantRefused(t, err, "its epoch is 1, and 2 is the lowest")
			sameContent(t, "on trial", disk, before)
			_, err = m.GC(t.Context(), nil)
			must(err)
			order("on trial, after gc", b.id, a.id, a.id)

			// It does not come up: the loader falls back, and the passive release is as good as it was.
			useUp(t, m, b.id)
			starts("fallen back", a.id, layout.RoleSystem)
			order("fallen back", a.id, a.id)
			if s, err := m.Status(); err != nil || s.Active.Release != a.id || s.Active.Refused != "" {
				t.Errorf("%+v, %v", s.Active, err)
			}
			must(upgrade(refs[1], false))
			starts("again", b.id, layout.RoleSystem)
			_, err = m.Bless(Verdict{})
			must(err)

			// Blessed: no command goes back, and the old recovery system still starts.
			order("blessed", b.id, a.id, a.id)
			before = content(t, disk)
			for _, err := range []error{
				upgrade(refs[0], false),
				func() error { _, err := m.Rollback(t.Context(), a.id, nil); return err }(),
			} {
				wantRefused(t, err, "its epoch is 1, and 2 is the lowest")
				sameContent(t, "blessed", disk, before)
			}
			if s, err := m.Status(); err != nil || s.Passive == nil ||
				!strings.Contains(s.Passive.Refused, "its epoch is 1") {
				t.Errorf("%+v, %v", s, err)
			}
			starts("the recovery system", a.id, layout.RoleRecovery)
			starts("back in the new one", b.id, layout.RoleSystem)

			// The recovery system's floor rises with it.
			must(upgrade(refs[1], true))
			order("with another recovery system", b.id, a.id, b.id)
			wantRefused(t, upgrade(refs[0], true), "its epoch is 1, and 2 is the lowest")
			order("an old recovery system refused", b.id, a.id, b.id)
			starts("the new recovery system", b.id, layout.RoleRecovery)
			wantRefused(t, upgrade(refs[0], false), "its epoch is 1, and 2 is the lowest")
		})
	}
}
