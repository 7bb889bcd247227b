package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	testregistry "github.com/google/go-containerregistry/pkg/registry"

	"github.com/kairos-buildkit/kairos/api"
)

// Two images in a registry, of which one has a release, and a medium.
func TestDiff(t *testing.T) {
	srv := httptest.NewServer(testregistry.New(
		testregistry.Logger(log.New(io.Discard, "", 0)), testregistry.WithReferrersSupport(true),
	))
	defer srv.Close()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	host := strings.TrimPrefix(srv.URL, "http://")
	a, b := published(t, host, "v1"), published(t, host, "v2")
	out, _ := run(t, 0, "diff", "--platform", "linux/amd64", "--no-files", "-o", "json", a, a)
	var d api.Diff
	if err := json.Unmarshal([]byte(out), &d); err != nil || d.Fetch != 0 || d.A.Blobs != "release" ||
		d.WholeLayers != "" || len(d.Layers) != 2 || d.Layers[0].By != api.ByNothing {
		t.Errorf("%v: %s", err, out)
	}
	// Its blobs are no blobs: that is seen where they are looked at.
	_, errs := run(t, 1, "diff", "--platform", "linux/amd64", "--no-files", a, b)
	if !strings.Contains(errs, "layer 1") {
		t.Error(errs)
	}
	// Without a kind, a file that is there is a medium.
	disk := writeDisk(t)
	if ref, err := fileRef(disk); err != nil || ref != "disk:"+disk {
		t.Errorf("%s, %v", ref, err)
	}
}

// What strangers named reaches no terminal as a control character.
func TestDiffText(t *testing.T) {
	var b strings.Builder
	err := printDiff(&b, api.Diff{
		A:     api.DiffSide{Source: "a", Release: "aaaaaaaaaaaa", Version: "v1\x1b[2J", Arch: "amd64"},
		B:     api.DiffSide{Source: "b", Release: "bbbbbbbbbbbb", Version: "v2", Arch: "amd64", ConfigDigest: "x"},
		Fetch: 10_700_000, Reuse: 72_000_000, Ranges: 20, Requests: 21,
		Layers: []api.DiffLayer{
			{DiffID: string(digestOf("0")), By: api.ByNothing, Size: 1e6},
			{DiffID: string(digestOf("1")), By: api.ByBlocks, Size: 82_600_000, Fetch: 10_700_000, Reuse: 72_000_000},
		},
		Boot:            []api.Difference{{Name: "kernel", Before: "6.12", After: "6.13"}},
		Labels:          []api.Difference{{Name: "l\x1b", After: "1"}},
		PackagesUnknown: "they are rpm's",
		Files: []api.FileDifference{
			{Path: "etc/a", Change: api.FileAdded, After: 12},
			{Path: "etc/b\x1b", Change: api.FileChanged, Before: 12, After: 10},
			{Path: "etc/c", Change: api.FileRemoved, Before: 12},
		},
	})
	const want = `A  a  release aaaaaaaaaaaa  v1\x1b[2J  amd64
B  b  release bbbbbbbbbbbb  v2         amd64

A node that has A fetches 10.7 MB for B, by blocks, in 21 requests; 72.0 MB are those of A.
  000000000000  1.0 MB   A has it
  111111111111  82.6 MB  10.7 MB fetched  72.0 MB reused

Kernel
  kernel  6.12  -> 6.13

Labels
  l\x1b  -  -> 1

Packages are not known: they are rpm's.

3 files
  added    etc/a      12B
  changed  etc/b\x1b  10B (-2 bytes)
  removed  etc/c
`
	if err != nil || b.String() != want {
		t.Errorf("%v\n%s", err, b.String())
	}
}
