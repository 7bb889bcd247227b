package frontend

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/layout"
)

// fake is a gateway client with options and nothing else.
type fake struct {
	client.Client
	opts map[string]string
}

func (f fake) BuildOpts() client.BuildOpts { return client.BuildOpts{Opts: f.opts} }

// The step is a program of ours that runs on anybody's machine: it has nothing that it does not need.
func TestStepHasNoNetworkAndNoPrivileges(t *testing.T) {
	labels := map[string]string{
		layout.ImageLabelCmdline: "quiet splash", layout.ImageLabelVersion: "v2", "org.example.other": "x",
	}
	exec := stepOp(t, fake{}, bootLayer, labels)
	if exec.Network != pb.NetMode_NONE {
		t.Errorf("network %v", exec.Network)
	}
	if exec.Security != pb.SecurityMode_SANDBOX {
		t.Errorf("security %v", exec.Security)
	}
	if len(exec.Secretenv) > 0 || len(exec.CdiDevices) > 0 {
		t.Errorf("secrets %v, devices %v", exec.Secretenv, exec.CdiDevices)
	}
	var dests []string
	// The only things that are no files of a layer.
	mounted := map[string]pb.MountType{}
	ids := map[string]string{
		"/run/secrets/secureboot-key": layout.SecureBootSecret, "/run/secrets/pcr-key": layout.PCRSecret,
	}
	for name := range ids {
		mounted[name] = pb.MountType_SECRET
	}
	for _, m := range exec.Mounts {
		dests = append(dests, m.Dest)
		if want := mounted[m.Dest]; m.MountType != want {
			t.Errorf("mount %s has type %v, want %v", m.Dest, m.MountType, want)
		}
		if s := m.SecretOpt; s != nil && (s.ID != ids[m.Dest] || !s.Optional) {
			t.Errorf("secret %v", s)
		}
	}
	mounts := []string{"/", "/rootfs", "/run/secrets/secureboot-key", "/run/secrets/pcr-key"}
	if !slices.Equal(dests, mounts) {
		t.Errorf("mounts %v, want %v", dests, mounts)
	}
	// A label that the step does not read must not make it run again.
	want := []string{
		Binary,
		"boot-layer",
		"--root",
		"/rootfs",
		"--arch",
		"arm64",
		"--label",
		layout.ImageLabelCmdline + "=quiet splash",
		"--secure-boot-key",
		"/run/secrets/secureboot-key",
		"--pcr-key",
		"/run/secrets/pcr-key",
	}
	if !slices.Equal(exec.Meta.Args, want) {
		t.Errorf("args %q, want %q", exec.Meta.Args, want)
	}
	// A version costs a layer of its own, and not the boot layer.
	want = []string{
		Binary,
		"release-layer",
		"--root",
		"/rootfs",
		"--arch",
		"arm64",
		"--label",
		layout.ImageLabelVersion + "=v2",
	}
	if exec := stepOp(t, fake{}, release, labels); !slices.Equal(exec.Meta.Args, want) || len(exec.Mounts) != 2 {
		t.Errorf("args %q, want %q, %d mounts", exec.Meta.Args, want, len(exec.Mounts))
	}
}

// stepOp returns the exec of the step for an arm64 image that is built on amd64.
func stepOp(t *testing.T, c client.Client, l layer, labels map[string]string) *pb.ExecOp {
	t.Helper()
	b := &builder{
		client: c,
		ui: &dockerui.Client{
			Config: dockerui.Config{BuildPlatforms: []ocispec.Platform{{OS: "linux", Architecture: "amd64"}}},
		},
		tool: llb.Image("docker.io/library/kairos@sha256:" + string(slices.Repeat([]byte("0"), 64))),
	}
	target := &image{
		platform: exptypes.Platform{ID: "linux/arm64", Platform: ocispec.Platform{OS: "linux", Architecture: "arm64"}},
		several:  true,
	}
	def, err := b.step(target, llb.Image("base"), l, labels).Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, dt := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			t.Fatal(err)
		}
		if exec := op.GetExec(); exec != nil {
			if op.Platform.Architecture != "amd64" {
				t.Errorf("the step runs on %s: an emulator would be needed", op.Platform.Architecture)
			}
			return exec
		}
	}
	t.Fatal("no exec in the definition")
	return nil
}

func TestNoCacheReachesTheStep(t *testing.T) {
	for opts, want := range map[string]bool{"": true, "base": false} {
		b := &builder{
			client: fake{opts: map[string]string{"no-cache": opts}},
			ui:     &dockerui.Client{},
			tool:   llb.Scratch(),
		}
		def, err := b.step(&image{}, llb.Image("base"), bootLayer, nil).Marshal(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := false
		for _, m := range def.Metadata {
			got = got || m.IgnoreCache
		}
		if got != want {
			t.Errorf("no-cache=%q: ignores the cache: %v, want %v", opts, got, want)
		}
	}
}

func TestHistoryIsAddedAndNothingElseChanges(t *testing.T) {
	in := `{"architecture":"amd64","os":"linux","config":{"Labels":{"a":"b"},"Healthcheck":{"Test":["NONE"]},
		"Shell":["/bin/sh"]},
		"history":[{"created_by":"FROM"}],"rootfs":{"type":"layers","diff_ids":null},"org.example":{"x":1}}`
	labels, out, err := addHistory([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	if labels["a"] != "b" {
		t.Errorf("labels %v", labels)
	}
	var before, after map[string]json.RawMessage
	for s, m := range map[string]*map[string]json.RawMessage{in: &before, string(out): &after} {
		if err := json.Unmarshal([]byte(s), m); err != nil {
			t.Fatal(err)
		}
	}
	for key, v := range before {
		if key != "history" && compact(t, v) != compact(t, after[key]) {
			t.Errorf("%s: %s became %s", key, v, after[key])
		}
	}
	want := `[{"created_by":"FROM"},` +
		`{"created_by":"kairos boot layer","comment":"kairos.frontend.v0"},` +
		`{"created_by":"kairos release","comment":"kairos.frontend.v0"}]`
	if compact(t, after["history"]) != compact(t, json.RawMessage(want)) {
		t.Errorf("history %s, want %s", after["history"], want)
	}
	for _, bad := range []string{"", "[]", `{"history":1}`} {
		if _, _, err := addHistory([]byte(bad)); err == nil {
			t.Errorf("config %q accepted", bad)
		}
	}
}

func TestLabelIsAddedAndNothingElseChanges(t *testing.T) {
	for in, want := range map[string]string{
		`{"config":{"Labels":{"a":"b"},"Env":["x"]},"x":1.0}`: "" +
			`{"config":{"Env":["x"],"Labels":{"a":"b","k":"v"}},"x":1.0}`,
		`{"config":{"Labels":{"k":"old"}}}`: `{"config":{"Labels":{"k":"v"}}}`,
		`{"config":null}`:                   `{"config":{"Labels":{"k":"v"}}}`,
		`{"config":{"Labels":null}}`:        `{"config":{"Labels":{"k":"v"}}}`,
		`{}`:                                `{"config":{"Labels":{"k":"v"}}}`,
	} {
		if got, err := addLabel([]byte(in), "k", "v"); err != nil || string(got) != want {
			t.Errorf("%s: %s, want %s, %v", in, got, want, err)
		}
	}
	for _, bad := range []string{"[]", `{"config":1}`, `{"config":{"Labels":[]}}`} {
		if _, err := addLabel([]byte(bad), "k", "v"); err == nil {
			t.Errorf("%s accepted", bad)
		}
	}
}

func compact(t *testing.T, b json.RawMessage) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// The syntax line names us: following it would run us again, without end.
func TestSyntaxLineIsNotFollowed(t *testing.T) {
	given := map[string]string{"target": "os"}
	got := ourselves{fake{opts: given}}.BuildOpts().Opts
	if got["cmdline"] == "" || got["target"] != "os" {
		t.Errorf("options %v", got)
	}
	if len(given) != 1 {
		t.Errorf("the client's own options were changed: %v", given)
	}
}
