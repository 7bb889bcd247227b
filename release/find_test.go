package release

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
	"github.com/kairos-buildkit/kairos/trust/trusttest"
)

// repository is one in memory.
type repository struct {
	blobs     map[digest.Digest][]byte
	referrers []ocispec.Descriptor
}

func (r *repository) put(mediaType string, b []byte) ocispec.Descriptor {
	d := describe(mediaType, b)
	r.blobs[d.Digest] = b
	return d
}

func (r *repository) Open(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(r.blobs[d.Digest])), nil
}

func (r *repository) Referrers(context.Context, layout.Digest, string) ([]ocispec.Descriptor, error) {
	return r.referrers, nil
}

// add publishes an artifact, signed where there are keys.
func (r *repository) add(t *testing.T, a Artifact, keys ...sign.Key) {
	t.Helper()
	if len(keys) > 0 {
		a.Signatures = r.put(layout.SignaturesType, trusttest.Signed(t, a.Release, keys...))
	}
	manifest, record, err := a.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	r.put(layout.ReleaseType, record)
	r.referrers = append(r.referrers, r.put(ocispec.MediaTypeImageManifest, manifest))
}

// Who trusts some keys gets the release that they have signed, however many others are beside the image, with the
// signatures of all that have signed it.
func TestFindTrusted(t *testing.T) {
	var keys []sign.Key
	anchor := trust.Anchor{Threshold: 2}
	for range 3 {
		k, err := sign.NewKey(trust.ECDSA)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	stranger := keys[2]
	anchor.Keys = []trust.PublicKey{keys[0].PublicKey, keys[1].PublicKey}
	if anchor.Keys[0].ID > anchor.Keys[1].ID {
		anchor.Keys[0], anchor.Keys[1] = anchor.Keys[1], anchor.Keys[0]
	}
	old, newer := sample(), sample()
	newer.Release.Format.Version = 4
	r := &repository{blobs: map[digest.Digest][]byte{}}
	find := func() (Artifact, error) {
		return FindTrusted(t.Context(), r, old.Release.Manifest, anchor, "amd64")
	}
	if _, err := find(); err != ErrNone {
		t.Errorf("none: %v", err)
	}
	r.add(t, newer, stranger)
	r.add(t, old)
	r.add(t, old, stranger, keys[0])
	if a, err := find(); err == nil {
		t.Errorf("signed by one of two: %+v", a)
	}
	r.add(t, newer, keys[1]) // each has signed something, and no two the same
	if a, err := find(); err == nil {
		t.Errorf("two releases signed by one each: %+v", a)
	}
	r.add(t, old, keys[1])
	a, err := find()
	if err != nil || a.Release.Format.Version != 3 {
		t.Fatalf("%+v, %v", a, err)
	}
	if signed, err := anchor.Check(a.Release, "amd64"); err != nil || len(signed) != 2 {
		t.Errorf("%v, %v", signed, err)
	}
	if a, err := Find(t.Context(), r, old.Release.Manifest); err != nil || a.Release.Format.Version != 4 {
		t.Errorf("who trusts the registry: %+v, %v", a, err)
	}
}

// What keys have signed is the release of its own image alone: a registry that shows it beside another one, with
// signatures or records exchanged, is not believed.
func TestFindTrustedRefuses(t *testing.T) {
	key, err := sign.NewKey(trust.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	anchor := trust.Anchor{Threshold: 1, Keys: []trust.PublicKey{key.PublicKey}, Epoch: 2}
	good := sample()
	good.Release.Epoch = 2
	// The release of another image, which the key has signed, too.
	other := good
	other.Release.Manifest = layout.SHA256([32]byte{9})
	other.Subject.Digest = digest.Digest(other.Release.Manifest)
	old := good
	old.Release.Epoch = 1
	for name, c := range map[string]struct {
		add  func(r *repository)
		want string
	}{
		"the release": {func(r *repository) { r.add(t, good, key) }, ""},
		"another image's": {func(r *repository) { r.add(t, other, key) },
			"is beside " + other.Subject.Digest.String()},
		"an old one": {func(r *repository) { r.add(t, old, key) }, "its epoch is 1"},
		"another's signatures": {func(r *repository) {
			scratch := &repository{blobs: r.blobs}
			scratch.add(t, other, key)
			a, err := Read(t.Context(), scratch, scratch.referrers[0])
			if err != nil {
				t.Fatal(err)
			}
			swapped := good
			swapped.Signatures = a.Signatures
			r.add(t, swapped)
		}, "is not one of this release.json"},
		"bytes exchanged": {func(r *repository) {
			r.add(t, good, key)
			_, record, err := old.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			for d := range r.blobs {
				if _, err := layout.ParseRelease(r.blobs[d]); err == nil {
					r.blobs[d] = record
				}
			}
		}, "sha256"},
	} {
		r := &repository{blobs: map[digest.Digest][]byte{}}
		c.add(r)
		_, err := FindTrusted(t.Context(), r, good.Release.Manifest, anchor, "amd64")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
