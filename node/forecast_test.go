package node

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/release/diff"
)

// What a check says that an upgrade would fetch is what the upgrade then says that it has fetched, and the registry's
// count agrees. The check itself reads trees alone.
func TestCheckIsWhatAnUpgradeFetches(t *testing.T) {
	content := noise(3 << 20)
	boot := bootLayer(t, "loader 1")
	a := newImage(t, runtime.GOARCH, tarOf(t, map[string]string{"big": content}), boot)
	// Two layers that nobody has, and which share what none of the old ones has.
	fresh := strings.Repeat(noise(64 << 10)[1000:50_000], 10)
	b := newImage(t, runtime.GOARCH,
		tarOf(t, map[string]string{"big": content[:1<<20] + "changed" + content[1<<20+7:], "new": fresh}),
		tarOf(t, map[string]string{"other": "x" + content[2<<20:], "new": fresh}), boot)
	first := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	reg, src, art := beside(t, first, b)
	pinned := source.Ref{
		Kind: source.Registry, Name: strings.TrimSuffix(src.Name, ":v2") + "@" + art.Subject.Digest.String(),
	}
	for name, c := range map[string]struct {
		src      source.Ref
		recovery bool
		change   func(http.ResponseWriter, *http.Request, *httptest.ResponseRecorder) bool
		blocks   bool // fetched by blocks
	}{
		"by blocks":          {src: src, blocks: true},
		"recovery by blocks": {src: src, recovery: true, blocks: true},
		"whole blobs": {src: src, change: func(
			w http.ResponseWriter, r *http.Request, _ *httptest.ResponseRecorder,
		) bool {
			if r.Header.Get("Range") == "" {
				return false
			}
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		}},
		"whole layers": {src: pinned},
	} {
		t.Run(name, func(t *testing.T) {
			disk := t.TempDir()
			m := install(t, disk, "uefi", t.TempDir(), a)
			bootedFrom(t, m, disk)
			reg.reset(c.change)
			o := UpgradeOptions{Source: c.src, Recovery: c.recovery}
			check, err := m.CheckUpgrade(t.Context(), CheckOptions{UpgradeOptions: o})
			if err != nil || check.Outcome != api.OutcomeUpgrade {
				t.Fatalf("%+v, %v", check, err)
			}
			layers := map[string]bool{}
			for _, d := range art.Blobs {
				layers[d.Digest.Encoded()] = true
			}
			if n := reg.given(func(string) bool { return true }); n > 64<<10 {
				t.Errorf("the check read %d bytes", n)
			}
			reg.reset(c.change)
			r, err := m.Upgrade(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			want := api.Transfer{
				Fetched: check.Fetch, Reused: check.Reuse, Ranges: check.Ranges, Requests: check.Requests,
				Written: r.Written,
			}
			if r.Transfer != want || r.Fetched == 0 {
				t.Errorf("upgrade %+v, check %+v", r.Transfer, want)
			}
			if c.blocks != (r.Reused > 0) {
				t.Errorf("%+v", r.Transfer)
			}
			given := reg.given(func(digest string) bool { return layers[digest] })
			if name != "whole layers" && given != r.Fetched {
				t.Errorf("the registry has given %d bytes of the blobs, and %d were counted", given, r.Fetched)
			}
			if name == "by blocks" {
				said := diffCost(t, first, a, src, art)
				if said.Fetch != r.Fetched || said.Reuse != r.Reused || said.Requests != r.Requests {
					t.Errorf("kairos diff %+v, upgrade %+v", said, r.Transfer)
				}
			}
			s := m.State
			if c.recovery {
				s = m.Recovery
			}
			for _, l := range art.Release.Layers {
				if err := s.VerifyBlob(l); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// diffCost compares an image that a machine has with one that has a release beside it.
func diffCost(t *testing.T, m *Machine, a testImage, src source.Ref, art release.Artifact) api.Diff {
	t.Helper()
	r, err := m.State.Release(a.id)
	if err != nil {
		t.Fatal(err)
	}
	have := diff.Side{Source: "A", Image: image.Image{ConfigDigest: r.Config}}
	for _, l := range r.Layers {
		f, err := m.State.OpenBlob(l.DiffID)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		have.Blobs = append(have.Blobs, image.Blob{Layer: l, ReaderAt: f})
	}
	img, err := source.Open(t.Context(), src, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := diff.Side{Source: "B", Image: img.Image, Blobs: art.Remote(t.Context(), img.Repository)}
	d, err := diff.Compare(t.Context(), have, b, diff.Options{})
	if err != nil || len(d.Files) == 0 || d.WholeLayers != "" {
		t.Errorf("%+v, %v", d, err)
	}
	return d
}
