package builder

import (
	"bytes"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
)

// What is published is signed where there is a key, and the same key gives the same bytes.
func TestBuilderSigns(t *testing.T) {
	_, host := serve(t, true)
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var keys []sign.Key
	a := trust.Anchor{Threshold: 2}
	for _, algorithm := range []string{trust.Ed25519, trust.ECDSA} {
		key, err := sign.NewKey(algorithm)
		if err != nil {
			t.Fatal(err)
		}
		keys, a.Keys = append(keys, key), append(a.Keys, key.PublicKey)
	}
	var first trust.Signatures
	for _, tag := range []string{"/os-a:v1", "/os-b:v1"} {
		pushBootable(t, host+tag, "v1")
		repo, img := openImage(t, host+tag)
		p := publication{
			digest:    img.Manifest.Digest.String(),
			platforms: []ocispec.Platform{{OS: "linux", Architecture: "amd64"}},
			local:     store,
			cache:     t.TempDir(),
			hosts: func(reference.Named) docker.RegistryHosts {
				return docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost))
			},
			sign: SignWith(keys),
		}
		if err := p.publish(t.Context(), []string{host + tag}); err != nil {
			t.Fatal(err)
		}
		found, err := release.Find(t.Context(), repo, layout.Digest(img.Manifest.Digest))
		if err != nil {
			t.Fatal(err)
		}
		record, err := found.Release.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		all, err := release.Signatures(t.Context(), repo, found.Release)
		if err != nil {
			t.Fatal(err)
		}
		if signed, err := trust.Verify(record, all, a.Keys, 2); err != nil || len(signed) != 2 {
			t.Errorf("%s: %v", tag, err)
		}
		if first == nil {
			first = all
		}
		for i := range first {
			if !bytes.Equal(first[i].Signature, all[i].Signature) {
				t.Errorf("%s: another signature by the same key", tag)
			}
		}
	}
}

// No step of a build gets the key: not as a file, nor in its environment, nor as a password for a source.
func TestStepsDoNotGetTheKey(t *testing.T) {
	mount := func(id string) *pb.Op {
		return &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Mounts: []*pb.Mount{
			{}, {MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: id, Optional: true}},
		}}}}
	}
	env := func(id string) *pb.Op {
		return &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Secretenv: []*pb.SecretEnv{{ID: id}}}}}
	}
	source := func(attr string) func(string) *pb.Op {
		return func(id string) *pb.Op {
			return &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Attrs: map[string]string{attr: id}}}}
		}
	}
	for name, make := range map[string]func(string) *pb.Op{
		"mount": mount, "environment": env, "git header": source(pb.AttrAuthHeaderSecret),
		"git token": source(pb.AttrAuthTokenSecret), "http header": source(pb.AttrHTTPAuthHeaderSecret),
	} {
		if !asksForKey(make(SignKeySecret)) {
			t.Errorf("%s: it gets the key", name)
		}
		if asksForKey(make("another")) {
			t.Errorf("%s: other secrets are refused, too", name)
		}
	}
	if asksForKey(&pb.Op{}) {
		t.Error("a step of another kind is refused")
	}
}
