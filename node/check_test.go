package node

import (
	"encoding/json"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
)

const (
	dpkgOld = "Package: a\nStatus: install ok installed\nVersion: 1\n\n" +
		"Package: b\nStatus: install ok installed\nVersion: 1\n"
	dpkgNew = "Package: a\nStatus: install ok installed\nVersion: 2\n\n" +
		"Package: c\nStatus: install ok installed\nVersion: 1\n"
)

// snapshot is all that a folder has, to see that nothing changes.
func snapshot(t *testing.T, dirs ...string) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			all.WriteString(name + info.Mode().String() + info.ModTime().String() + "\n")
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

// bootedFrom has the fake machine run from STATE.
func bootedFrom(t testing.TB, m *Machine, disk string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(m.Root, layout.RunPrivate), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(disk, stateDir), filepath.Join(m.Root, layout.RunStoreMount)); err != nil {
		t.Fatal(err)
	}
}

// A check says what an upgrade would do, and nothing on the node changes.
func TestCheckUpgrade(t *testing.T) {
	base := tarOf(t, map[string]string{"etc/base": strings.Repeat("base", 3000), "var/lib/dpkg/status": dpkgOld})
	old := newImage(t, runtime.GOARCH, base, bootLayer(t, "loader 1"))
	next := newImage(
		t,
		runtime.GOARCH,
		base,
		tarOf(t, map[string]string{"var/lib/dpkg/status": dpkgNew}),
		bootLayer(t, "loader 1"),
	)
	same := newImage(t, runtime.GOARCH, base, tarOf(t, map[string]string{"etc/x": "x"}), bootLayer(t, "loader 1"))
	without := newImage(
		t,
		runtime.GOARCH,
		base,
		tarOf(
			t,
			map[string]string{"var/lib/.wh.dpkg": "", "lib/apk/db/installed": "P:a\nV:3\n"},
		),
		bootLayer(t, "loader 1"),
	)
	other := newImage(t, "s390x", base)
	disk, cache := t.TempDir(), t.TempDir()
	m := install(t, disk, "uefi", cache, old)
	bootedFrom(t, m, disk)
	recovery := CheckOptions{UpgradeOptions: UpgradeOptions{Recovery: true}}
	newer := []api.Difference{
		{Name: "a", Before: "1", After: "2"}, {Name: "b", Before: "1"}, {Name: "c", After: "1"},
	}
	for name, c := range map[string]struct {
		img      testImage
		options  CheckOptions
		outcome  string
		reason   string
		missing  int
		packages []api.Difference
	}{
		"a new one":          {img: next, outcome: api.OutcomeUpgrade, missing: 1, packages: newer},
		"no package differs": {img: same, outcome: api.OutcomeUpgrade, missing: 1},
		"another package manager": {img: without, outcome: api.OutcomeUpgrade, missing: 1,
			packages: []api.Difference{{Name: "a", Before: "1", After: "3"}, {Name: "b", Before: "1"}}},
		"the running one":    {img: old, outcome: api.OutcomeNothing},
		"recovery, the same": {img: old, options: recovery, outcome: api.OutcomeNothing},
		"recovery":           {img: next, options: recovery, outcome: api.OutcomeUpgrade, missing: 1, packages: newer},
		"another CPU's":      {img: other, outcome: api.OutcomeRefused, reason: "s390x"},
	} {
		t.Run(name, func(t *testing.T) {
			before := snapshot(t, disk, cache, m.Root)
			c.options.Source = c.img.source()
			got, err := m.CheckUpgrade(t.Context(), c.options)
			if err != nil {
				t.Fatal(err)
			}
			if got.Outcome != c.outcome || !strings.Contains(got.Reason, c.reason) || got.Booted != old.id ||
				got.Missing != c.missing ||
				!slices.Equal(got.Packages, c.packages) {
				t.Errorf("%+v", got)
			}
			if c.outcome != api.OutcomeRefused &&
				(got.Release != c.img.id || got.PackagesUnknown != "" || got.Free == 0 ||
					(got.Write > 0) != (c.missing > 0) || got.Fetch != 0) {
				t.Errorf("%+v", got)
			}
			if after := snapshot(t, disk, cache, m.Root); after != before {
				t.Errorf("something changed:\n%s\nwas\n%s", after, before)
			}
		})
	}
	// What a check says, an upgrade does.
	if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: next.source()}); err != nil {
		t.Fatal(err)
	}
	useUp(t, m, next.id)
	got, err := m.CheckUpgrade(
		t.Context(),
		CheckOptions{UpgradeOptions: UpgradeOptions{Source: next.source(), UnlessFailed: true}},
	)
	if err != nil || got.Outcome != api.OutcomeRefused || !strings.Contains(got.Reason, "has failed on this node") {
		t.Errorf("a release that failed: %+v, %v", got, err)
	}
	got, err = m.CheckUpgrade(t.Context(), CheckOptions{UpgradeOptions: UpgradeOptions{Source: same.source()}})
	if err != nil || !slices.Equal(got.Removed, []string{next.id}) {
		t.Errorf("removes %+v, %v", got, err)
	}
	r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: same.source()})
	if err != nil || !slices.Equal(r.Removed, got.Removed) {
		t.Errorf("removed %v, %v", r.Removed, err)
	}
}

// Of a registry only what describes the image is read, unless packages are asked for.
func TestCheckFetchesNoLayer(t *testing.T) {
	base := tarOf(t, map[string]string{"var/lib/dpkg/status": dpkgOld})
	old := newImage(t, runtime.GOARCH, base, bootLayer(t, "loader 1"))
	const size = 2 << 20
	next := newImage(t, runtime.GOARCH, base,
		tarOf(t, map[string]string{"var/lib/dpkg/status": dpkgNew, "big": noise(size)}), bootLayer(t, "loader 1"))
	reg := &fakeRegistry{dir: next.dir}
	srv := httptest.NewServer(reg)
	defer srv.Close()
	disk, cache := t.TempDir(), t.TempDir()
	m := install(t, disk, "uefi", cache, old)
	bootedFrom(t, m, disk)
	o := CheckOptions{UpgradeOptions: UpgradeOptions{
		Source: source.Ref{Kind: source.Registry, Name: strings.TrimPrefix(srv.URL, "http://") + "/os:v2"},
	}}
	before := snapshot(t, disk, cache)
	got, err := m.CheckUpgrade(t.Context(), o)
	if err != nil || got.Outcome != api.OutcomeUpgrade || got.Fetch < size || got.Write < size ||
		!strings.Contains(got.PackagesUnknown, "(2 of 3) is not on this node") || got.Packages != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if n := reg.bytes.Load(); n > 10_000 {
		t.Errorf("fetched %d bytes", n)
	}
	o.Packages = true
	if got, err = m.CheckUpgrade(t.Context(), o); err != nil || got.PackagesUnknown != "" || len(got.Packages) != 3 {
		t.Errorf("%+v, %v", got, err)
	}
	if after := snapshot(t, disk, cache); after != before {
		t.Errorf("something changed:\n%s\nwas\n%s", after, before)
	}
}

// Labels are compared, and shown without what would change a terminal.
func TestDifferences(t *testing.T) {
	got := differences(
		map[string]string{"a": "1", "b": "1", "c": "1"},
		map[string]string{"a": "1", "b": "2\x1b[31m", "d": "1"},
	)
	b, err := json.Marshal(got)
	const want = `[{"name":"b","before":"1","after":"2[31m"},{"name":"c","before":"1"},{"name":"d","after":"1"}]`
	if err != nil || string(b) != want {
		t.Errorf("%s, want %s", b, want)
	}
}
