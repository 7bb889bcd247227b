package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/uki"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// bootFiles compares what is on the ESP with what the verified layers hold.
func (v *verification) bootFiles(ctx context.Context) error {
	state, err := v.m.ESP.State()
	if err != nil {
		return err
	}
	for _, e := range state.All() {
		if err := ctx.Err(); err != nil {
			return err
		}
		s := v.m.State
		if e.Seq == layout.RecoverySeq {
			s = v.m.Recovery
		}
		if s == nil || !v.m.complete(s, e.ID) {
			continue // said above
		}
		if err := v.entry(s, e); err != nil {
			return err
		}
	}
	if !v.o.Repair {
		return nil
	}
	// What a repair that was interrupted has left beside the entries.
	_, err = v.m.ESP.Retire(state.IDs())
	return err
}

func (v *verification) entry(s *store.Store, e layout.Entry) error {
	r, err := s.Release(e.ID)
	if err != nil {
		return err
	}
	d := api.Damage{Place: api.PlaceESP, Object: layout.UKIDir + "/" + e.String(), Releases: []string{e.ID}}
	want, facts, err := v.m.bootFiles(s, withCmdline(r, v.m.config().Install()), nil)
	if err != nil && v.o.Repair {
		if good, restored := v.restoreSignatures(s, r, e); restored == nil {
			place := api.PlaceState
			if s == v.m.Recovery {
				place = api.PlaceRecovery
			}
			v.result.Damage = append(v.result.Damage, api.Damage{
				Place: place, Object: layout.ReleaseBootSignaturesPath(e.ID), Releases: []string{e.ID},
				Problem: err.Error(), Repaired: "put together from what is on the other partition and the ESP",
			})
			r = good
			want, facts, err = v.m.bootFiles(s, withCmdline(r, v.m.config().Install()), nil)
		}
	}
	if err != nil {
		d.Problem, d.Advice = fmt.Sprintf(
			"its boot files cannot be read from its layers: %v",
			err,
		), "upgrade to another image"
		v.result.Damage = append(v.result.Damage, d)
		return nil
	}
	v.signed(s, r, facts.anchor)
	name, problem := v.espProblem(e, want)
	if problem == nil {
		return nil
	}
	d.Object, d.Problem = name, problem.Error()
	if v.o.Repair {
		if err := v.m.restorable(r, facts.anchor, facts.uki, nil); err != nil {
			d.Advice = fmt.Sprintf("%v: upgrade to another image", err)
		} else if err := v.m.ESP.Restore(e, want); err != nil {
			d.Advice = fmt.Sprintf("%v: look for errors of the disk in the kernel's log (dmesg)", err)
		} else {
			d.Repaired = "written again from the release's layers"
		}
	}
	v.result.Damage = append(v.result.Damage, d)
	return nil
}

// restoreSignatures writes the signatures of a release's boot files again, by those that the other partition has, and
// that are on the boot files: each is compared with its file, and with the image's certificate. An error says that
// this was not what is wrong.
func (v *verification) restoreSignatures(s *store.Store, r layout.Release, e layout.Entry) (layout.Release, error) {
	if r.Labels[layout.ImageLabelBootSignatures] == "" {
		return r, errors.New("the image has its boot files signed")
	}
	var list secureboot.DetachedList
	for _, other := range []*store.Store{v.m.State, v.m.Recovery} {
		if other == nil {
			continue
		}
		if good, err := other.Release(e.ID); err == nil {
			have, err := secureboot.ParseDetached(good.BootSignatures)
			if err == nil {
				list = append(list, have...)
			}
		}
	}
	started, err := layout.EFIDefaultPath(r.Arch)
	if err != nil {
		return r, err
	}
	for from, file := range map[string]string{
		layout.UKIDir + "/" + e.String(): layout.ImageUKI, started: layout.ImageSystemdBoot,
	} {
		b, err := v.m.ESP.ReadFile(from)
		if err != nil {
			continue
		}
		if one, err := secureboot.Detach(file, b); err == nil {
			list = append(list, one)
		}
	}
	if r.BootSignatures, err = list.Marshal(); err != nil {
		return r, err
	}
	_, facts, err := v.m.bootFiles(s, withCmdline(r, v.m.config().Install()), nil)
	if err != nil {
		return r, err
	}
	r.BootSignatures = facts.detached
	return r, s.AddRelease(r)
}

// signed says whether the keys of a release's own image have signed it, as its /init asks for.
func (v *verification) signed(s *store.Store, r layout.Release, own *trust.Anchor) {
	if own == nil || own.Warn {
		return
	}
	_, problem := own.Check(r, runtime.GOARCH)
	if problem == nil {
		return
	}
	place, other := api.PlaceState, v.m.Recovery
	if s == v.m.Recovery {
		place, other = api.PlaceRecovery, v.m.State
	}
	d := api.Damage{
		Place: place, Object: layout.ReleaseSignaturesPath(r.ID()), Releases: []string{r.ID()},
		Problem: problem.Error(),
	}
	if v.o.Repair {
		d.Advice = "upgrade to its image again"
		if other != nil {
			good, err := other.Release(r.ID())
			if err == nil {
				_, err = own.Check(good, runtime.GOARCH)
			}
			if err == nil && s.AddRelease(good) == nil {
				d.Repaired, d.Advice = "copied from the other partition", ""
			}
		}
	}
	v.result.Damage = append(v.result.Damage, d)
}

// espProblem says which file of an entry differs, and how.
func (v *verification) espProblem(e layout.Entry, want loader.BootFiles) (string, error) {
	differs := func(name string, want []byte) error {
		have, err := v.m.ESP.ReadFile(name)
		have, want = uki.Untitled(have), uki.Untitled(want)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return errors.New("it is missing")
		case err != nil:
			return err
		case !bytes.Equal(have, want):
			return errors.New("it differs from the one in the release's layers")
		}
		return nil
	}
	name := layout.UKIDir + "/" + e.String()
	other := false // another command line: the config has changed since, and takes effect with the next upgrade
	if err := differs(name, want.UKI); err != nil {
		have, _ := v.m.ESP.ReadFile(name)
		// A signed one has the image's command line, whatever the config says, and does not start unsigned.
		other = !uki.Signed(want.UKI) && onlyCmdline(uki.Untitled(have), uki.Untitled(want.UKI))
		if !other {
			return name, err
		}
	}
	if want.Kernel == nil {
		return "", nil
	}
	dir := layout.GrubKernelDir + "/" + e.ID + "/"
	for _, f := range []struct {
		name string
		data []byte
	}{{"vmlinuz", want.Kernel}, {"initrd", want.Initrd}, {"entry.cfg", layout.GrubEntry(want.Cmdline, want.Name)}} {
		if f.name == "entry.cfg" && other {
			continue
		}
		if err := differs(dir+f.name, f.data); err != nil {
			return dir + f.name, err
		}
	}
	return "", nil
}

// onlyCmdline says whether two UKIs differ in their command lines only.
func onlyCmdline(a, b []byte) bool {
	as, err := uki.Sections(a)
	if err != nil {
		return false
	}
	bs, err := uki.Sections(b)
	if err != nil || len(as) != len(bs) {
		return false
	}
	for i := range as {
		if as[i].Name != bs[i].Name || as[i].Name != ".cmdline" && !bytes.Equal(as[i].Data, bs[i].Data) {
			return false
		}
	}
	return true
}

// cache compares what has been fetched for later with its digests. It is a cache: a part that is damaged is
// fetched again when the whole of it is removed.
func (v *verification) cache(ctx context.Context) error {
	if v.m.Cache == "" {
		return nil
	}
	dir := filepath.Join(v.m.Cache, cacheDir)
	blobs := filepath.Join(dir, "content", "blobs", "sha256")
	entries, err := os.ReadDir(blobs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	damaged := len(v.result.Damage)
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, sum, err := digestOf(filepath.Join(blobs, e.Name()))
		v.result.Bytes += n
		if err == nil && sum == e.Name() {
			continue
		}
		problem := "its bytes are not those of its digest"
		if err != nil {
			problem = err.Error()
		}
		v.result.Damage = append(
			v.result.Damage,
			api.Damage{Place: api.PlaceCache, Object: "sha256:" + e.Name(), Problem: problem},
		)
	}
	if !v.o.Repair || damaged == len(v.result.Damage) {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for i := range v.result.Damage[damaged:] {
		v.result.Damage[damaged+i].Repaired = "removed: what is needed of it is fetched again"
	}
	return nil
}

func digestOf(name string) (int64, string, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return n, hex.EncodeToString(h.Sum(nil)), err
}
