//go:build vm

package doors

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kairos-buildkit/kairos/layout"
)

// The release of one build is the same bytes whichever door published it: its manifest names every blob by digest. So
// is that of what a stock BuildKit has built and pushed by its own exporter.
func TestReleaseFromEachDoor(t *testing.T) {
	host := startRegistry(t)
	buildKairos(t, "--tag", host+"/flag:v1", "--tag", host+"/flag:v2", "--push", "--release")
	buildKairos(t, "--output", "type=release,name="+host+"/type:v1")
	buildKairos(t, "--tag", host+"/later:v1", "--push")
	run(t, kairosBin, "release", host+"/later:v1")

	socket := filepath.Join(t.TempDir(), "builder.sock")
	daemon := command(
		context.Background(), kairosBin, "--root", filepath.Join(toolDir, "daemon"), "--addr", "unix://"+socket,
		"--oci-worker-net", "host",
	)
	daemon.Args[0] = "buildkitd" // the name under which it is the daemon
	waitFor(t, socket, start(t, daemon))
	remoteBuilder(t, "release", socket)
	buildx(t, "release", contextDir, "--output", "type=image,name="+host+"/buildx:v1,push=true,release=true")

	buildx(t, "stock", startStock(t), "--output", "type=image,name="+host+"/stock:v1,push=true,rewrite-timestamp=true")
	run(t, kairosBin, "release", "--cache", t.TempDir(), host+"/stock:v1")

	want := artifact(t, host+"/later:v1")
	for _, ref := range []string{"/flag:v1", "/flag:v2", "/type:v1", "/buildx:v1", "/stock:v1"} {
		if got := artifact(t, host+ref); got != want {
			t.Errorf("%s: release %s, and kairos release makes %s", ref, got, want)
		}
	}
}

// artifact is the digest of the one release beside an image.
func artifact(t *testing.T, s string) string {
	t.Helper()
	ref, err := name.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	// With buildx's provenance it is an index, and the subject is the platform's manifest in it.
	img, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	subject, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Referrers(ref.Context().Digest(subject.String()))
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, d := range list.Manifests { // provenance is one, too
		m, err := remote.Get(ref.Context().Digest(d.Digest.String()))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(m.Manifest), layout.ReleaseType) {
			found = append(found, d.Digest.String())
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s: releases %q among referrers %+v", s, found, list.Manifests)
	}
	return found[0]
}
