package node

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/release"
)

// A release that was copied into an OCI layout or an archive is taken from there: the same bytes as from the registry,
// and nothing is converted.
func TestReleaseFromALayout(t *testing.T) {
	a, b := large(t)
	first := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	_, src, art := beside(t, first, b)
	dir := t.TempDir()
	for _, to := range []source.Ref{
		{Kind: source.OCILayout, Name: filepath.Join(dir, "layout") + ":v2"},
		{Kind: source.OCIArchive, Name: filepath.Join(dir, "os.tar")},
	} {
		t.Run(string(to.Kind), func(t *testing.T) {
			found, err := source.Find(t.Context(), src, source.Options{})
			if err != nil {
				t.Fatal(err)
			}
			mirror, err := source.Create(t.Context(), to, source.Options{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = release.Copy(t.Context(), found, found.Roots[0], mirror, release.CopyOptions{})
			if err := mirror.Finish(err); err != nil {
				t.Fatal(err)
			}
			disk := t.TempDir()
			m := install(t, disk, "uefi", t.TempDir(), a)
			bootedFrom(t, m, disk)
			o := UpgradeOptions{Source: to}
			check, err := m.CheckUpgrade(t.Context(), CheckOptions{UpgradeOptions: o})
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			o.Progress = func(e Event) {
				mu.Lock()
				defer mu.Unlock()
				if e.Step == api.StepLayer || e.Step == api.StepNote {
					t.Errorf("%+v", e)
				}
			}
			r, err := m.Upgrade(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if r.Fetched != 0 || r.Reused < 2<<20 || r.Reused != check.Reuse || check.Fetch != 0 {
				t.Errorf("%+v, check %+v", r.Transfer, check)
			}
			sameStore(t, first.State, m.State, art.Release)
		})
	}
}
