//go:build vm

package node

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/internal/distribution"
	"github.com/kairos-buildkit/kairos/internal/qemu"
)

// What a point release of systemd changes in the Debian base: some 590 files of 25 MB in its layer of 166 MB. Of each
// file all but the first hundred bytes move, which no update of a program does worse.
var updatedPackages = []string{
	"libpam-systemd:amd64", "libsystemd-shared:amd64", "libsystemd0:amd64", "libudev1:amd64", "systemd", "udev",
}

// What an upgrade costs a node with a disk of its own, from a registry of another project, by that one's log: for a
// version alone less than 100 KB, for one file of 166 MB less than 2 MB, for a round of updates at most 15 % of the
// layer's gzip, and for no change the manifests. The node says the same numbers as the log, and has said them before.
func TestUpgradeByBlocks(t *testing.T) {
	t.Parallel()
	program := filepath.Join("../..", distribution.Program)
	reg, err := distribution.Start(t.Context(), program, t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reg.Stop)

	// Its layers are those of the example, but for the one with the version.
	next, err := buildImage("blocks", exampleDir, "--label", rootShellLabel)
	if err != nil {
		t.Fatal(err)
	}
	version := imageIn(t, next)
	layers, err := version.Layers()
	if err != nil {
		t.Fatal(err)
	}
	gzip, err := layers[0].Size()
	if err != nil {
		t.Fatal(err)
	}
	updated, size := map[string]bool{}, int64(0)
	for name, n := range filesOf(t, layers[0], updatedPackages) {
		updated[name], size = true, size+n
	}
	if len(updated) < 112 || size < 21e6 {
		t.Fatalf("%d files of %d bytes are no round of updates", len(updated), size)
	}
	const file = "usr/bin/bash"

	m := start(t, qemu.UEFI)
	var last string
	for _, c := range []struct {
		tag  string
		img  v1.Image
		most int64 // bytes, with config and record
	}{
		{"version", version, 100_000},
		{"file", withChange(t, version, map[string]bool{file: true}), 2_000_000},
		{"updates", withChange(t, version, updated), gzip * 15 / 100},
	} {
		ref := reg.Addr + "/os:" + c.tag
		to, err := name.ParseReference(ref, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(to, c.img); err != nil {
			t.Fatal(err)
		}
		if err := run(kairosBin, "release", ref); err != nil {
			t.Fatal(err)
		}
		in := m.registry(reg.Addr) + "/os:" + c.tag
		began := time.Now()
		var check api.UpgradeCheck
		m.applyJSON(&check, 9, "upgrade --check "+in) // it would upgrade
		blobs, manifests := given(t, reg)
		var r api.Result
		m.applyJSON(&r, 0, "upgrade "+in)
		took := time.Since(began).Seconds()
		blobs2, manifests2 := given(t, reg)
		log, all := blobs2-blobs, blobs2-blobs+manifests2-manifests
		t.Logf("%s: the registry gave %d bytes, %d of them of blobs; at most %d may be; %.0f s; %+v",
			c.tag, all, log, c.most, took, r.Transfer)
		if all > c.most {
			t.Errorf("%s: the registry gave %d bytes, more than %d", c.tag, all, c.most)
		}
		if !r.Changed || r.Fetched == 0 || r.Ranges == 0 || r.Fetched+r.Reused < r.Written {
			t.Errorf("%s: %+v", c.tag, r)
		}
		// The image's config and the release's record are blobs as well, of some KB.
		if log < r.Fetched || log > r.Fetched+32<<10 {
			t.Errorf("%s: the registry gave %d bytes of blobs, the node says %d", c.tag, log, r.Fetched)
		}
		said := api.Transfer{
			Fetched: check.Fetch, Reused: check.Reuse, Written: r.Written, Ranges: check.Ranges,
			Requests: check.Requests,
		}
		if check.Outcome != api.OutcomeUpgrade || said != r.Transfer {
			t.Errorf("%s: the check said %+v, and the upgrade did %+v", c.tag, check, r.Transfer)
		}
		last = in
	}

	blobs, manifests := given(t, reg)
	var r api.Result
	m.applyJSON(&r, 0, "upgrade "+last)
	blobs2, manifests2 := given(t, reg)
	t.Logf("no change: %d bytes of manifests, %d of config and record", manifests2-manifests, blobs2-blobs)
	if r.Changed || r.Fetched != 0 || blobs2-blobs+manifests2-manifests > 16<<10 {
		t.Errorf("no change: %d bytes of blobs, %d of manifests, %+v", blobs2-blobs, manifests2-manifests, r)
	}
}

// given returns how many bytes of blobs and of manifests the registry says that it has given. Referrers are manifests
// of indexes that it has none of.
func given(t *testing.T, reg *distribution.Registry) (blobs, manifests int64) {
	t.Helper()
	answers, err := reg.Answers()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range answers {
		if strings.Contains(a.Path, "/blobs/") {
			blobs += a.Bytes
		} else {
			manifests += a.Bytes
		}
	}
	return blobs, manifests
}

// applyJSON runs kairos-apply, which must end with an exit code, and reads its result.
func (m *machine) applyJSON(result any, want int, args string) {
	m.t.Helper()
	out, code := m.RunWithin(10*time.Minute, "kairos-apply "+args+" -o json 2>/run/progress")
	if err := json.Unmarshal([]byte(out), result); err != nil || code != want {
		m.t.Fatalf("kairos-apply %s: exit code %d, %v\n%s\n%s", args, code, err, out, m.Check("cat /run/progress"))
	}
}

// walk reads a layer's tar.
func walk(t *testing.T, l v1.Layer, do func(*tar.Header, io.Reader) error) {
	t.Helper()
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			err = do(h, archive)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// filesOf returns the regular files, and their sizes, that a layer has of some Debian packages.
func filesOf(t *testing.T, l v1.Layer, packages []string) map[string]int64 {
	t.Helper()
	sizes, owned := map[string]int64{}, map[string]int64{}
	var lists []string
	walk(t, l, func(h *tar.Header, r io.Reader) error {
		n := strings.TrimPrefix(h.Name, "./")
		if h.Typeflag == tar.TypeReg {
			sizes[n] = h.Size
		}
		pkg, ok := strings.CutSuffix(strings.TrimPrefix(n, "var/lib/dpkg/info/"), ".list")
		if !ok || !slices.Contains(packages, pkg) {
			return nil
		}
		b, err := io.ReadAll(r)
		lists = append(lists, strings.Fields(string(b))...)
		return err
	})
	for _, path := range lists {
		n := strings.TrimPrefix(path, "/")
		for _, merged := range []string{"bin/", "sbin/", "lib/", "lib64/"} {
			if strings.HasPrefix(n, merged) {
				n = "usr/" + n
			}
		}
		if size, ok := sizes[n]; ok {
			owned[n] = size
		}
	}
	return owned
}

// withChange returns the image with eight more bytes near the beginning of some files of its first layer.
func withChange(t *testing.T, img v1.Image, files map[string]bool) v1.Image {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "layer.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	archive := tar.NewWriter(out)
	walk(t, layers[0], func(h *tar.Header, r io.Reader) error {
		if h.Typeflag == tar.TypeReg && files[strings.TrimPrefix(h.Name, "./")] {
			r = io.MultiReader(io.LimitReader(r, 100), strings.NewReader("inserted"), r)
			h.Size += 8
		}
		if err := archive.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(archive, r)
		return err
	})
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if layers[0], err = tarball.LayerFromFile(out.Name(), tarball.WithMediaType(types.OCILayer)); err != nil {
		t.Fatal(err)
	}
	made, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layers...)
	if err != nil {
		t.Fatal(err)
	}
	stacked, err := made.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.RootFS, config.History = stacked.RootFS, nil
	if made, err = mutate.ConfigFile(made, config); err != nil {
		t.Fatal(err)
	}
	return mutate.ConfigMediaType(made, types.OCIConfigJSON)
}
