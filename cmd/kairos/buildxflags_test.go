package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gateway "github.com/moby/buildkit/frontend/gateway/client"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/pb"
)

// builtWith is what a builder's frontend is asked with.
type builtWith struct {
	gateway.Client
	opts map[string]string
}

func (b builtWith) BuildOpts() gateway.BuildOpts {
	return gateway.BuildOpts{Opts: b.opts, LLBCaps: pb.Caps.CapSet(pb.Caps.All())}
}

// parseBuild reads flags as the command does, up to the builder.
func parseBuild(t *testing.T, args ...string) (client.SolveOpt, []output, error) {
	t.Helper()
	var o buildOptions
	c := o.command(streams{out: io.Discard, err: io.Discard})
	if err := c.ParseFlags(args); err != nil {
		return client.SolveOpt{}, nil, err
	}
	solve, err := o.solveOptions()
	if err != nil {
		return solve, nil, err
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	done, err := o.setContexts(&solve, dir, streams{})
	if err != nil {
		return solve, nil, err
	}
	defer done()
	if err := o.setSession(&solve, streams{err: io.Discard}); err != nil {
		return solve, nil, err
	}
	outs, err := o.parseOutputs()
	if err != nil {
		return solve, outs, err
	}
	return solve, outs, o.checkID(outs)
}

// Flags of buildx mean here what they mean there: the Dockerfile frontend is asked with these attributes, and takes
// them.
func TestBuildxFlags(t *testing.T) {
	for args, want := range map[string]string{
		"--shm-size 128m": "shm-size=134217728",
		"--ulimit nofile=1024:2048 --ulimit core=0":      "ulimit=nofile=1024:2048,core=0:0",
		"--cgroup-parent build.slice":                    "cgroup-parent=build.slice",
		"--resource memory=2g --resource memory-swap=-1": "memory=2147483648 memswap=-1",
		"-m 1g -c 512 --cpuset-cpus 0-1":                 "memory=1073741824 cpushares=512 cpusetcpus=0-1",
		"--resource cpu-quota=50000":                     "cpuquota=50000",
		"--add-host a:host-gateway":                      "add-hosts=a=127.0.0.1",
		"--add-host a=10.0.0.1,[::1] --add-host b:::2":   "add-hosts=a=10.0.0.1,a=::1,b=::2",
		"--provenance true":                              "attest:provenance=",
		"--provenance mode=max --provenance mode=min":    "attest:provenance=mode=min",
		"--attest type=provenance,mode=max --sbom=true":  "attest:provenance=mode=max attest:sbom=",
		"--attest type=sbom,generator=a/b:v1":            "attest:sbom=generator=a/b:v1",
		"--attest type=sbom --sbom false":                "-attest:sbom",
		"--attest type=provenance,disabled=true":         "-attest:provenance",
		"--no-cache-filter a,b --no-cache-filter c":      "no-cache=a,b,c",
		"--no-cache":                         "no-cache=",
		"--target last --pull":               "target=last image-resolve-mode=pull",
		"--platform linux/arm64,linux/amd64": "platform=linux/arm64,linux/amd64",
		"--platform local":                   "platform=linux/",

		"--build-context docker.io/library/base:latest=docker-image://os": "context:base=docker-image://os",
		"--build-context src=https://x.org/x.git":                         "context:src=https://x.org/x.git",
		"--build-context more=.":                                          "context:more=local:more",
		"--build-context base=target:other":                               "context:base=target:other",
		"--network none":                                                  "force-network-mode=none",
		"--label a=b --label c":                                           "label:a=b label:c=",
		"--build-arg A=b --compress --rm --force-rm":                      "build-arg:A=b",
		"--cache-from os:cache --cache-to type=inline":                    "",

		"--cache-to type=local,dest=x,mode=max --cache-from type=local,src=x":         "",
		"--secret id=a,src=build.go --secret id=PATH --secret type=env,id=b,env=HOME": "",
		"--progress rawjson --allow security.insecure":                                "",
	} {
		solve, _, err := parseBuild(t, strings.Fields(args)...)
		if err != nil {
			t.Errorf("%s: %v", args, err)
			continue
		}
		for w := range strings.FieldsSeq(want) {
			name, value, _ := strings.Cut(w, "=")
			if got, ok := solve.FrontendAttrs[strings.TrimPrefix(name, "-")]; ok == strings.HasPrefix(name, "-") ||
				got != value && !(name == "platform" && strings.HasPrefix(got, value)) {
				t.Errorf("%s: %s=%q, %v", args, name, got, ok)
			}
		}
		if _, err := dockerui.NewClient(builtWith{opts: solve.FrontendAttrs}); err != nil {
			t.Errorf("%s: the frontend refuses %v: %v", args, solve.FrontendAttrs, err)
		}
	}
}

// What cannot work is a sentence that says what can, before anything runs.
func TestBuildxFlagsAreRefused(t *testing.T) {
	for args, want := range map[string]string{
		"--shm-size big":                            "want a size such as 64m or 2g",
		"--ulimit files=3":                          "want NAME=SOFT[:HARD]",
		"--resource disk=3g":                        "want memory=2g",
		"--resource memory=x":                       "want a size",
		"--resource cpu-quota=much":                 "want a number",
		"--add-host a:b":                            "want NAME:ADDRESS",
		"--attest type=other":                       "want type=provenance or type=sbom",
		"--attest mode=max":                         "want type=provenance or type=sbom",
		"--annotation a -t x --push":                "want KEY=VALUE",
		"--annotation a=b -o type=local,dest=x":     "no output is an image",
		"--annotation foo:a=b --tag x --push":       "want index, index-descriptor, manifest or manifest-descriptor",
		"--iidfile x -o type=tar,dest=y":            "no output is an image",
		"--iidfile /nowhere/x --tag x --push":       "folder /nowhere",
		"-q -o type=oci,dest=-":                     "--quiet prints the image's ID on standard output",
		"--no-cache --no-cache-filter a":            "--no-cache runs every step again",
		"--progress fancy":                          "use auto, plain, tty, quiet, rawjson",
		"--platform mars":                           "want one such as linux/arm64",
		"--tag A:B:C":                               "invalid reference format",
		"--allow everything":                        "use network.host, security.insecure or device",
		"--cache-to type=gha,url=http://x/,token=y": "this builder has caches of the types local",
		"--cache-from type=s3,bucket=x":             "this builder has caches of the types local",
		"--cache-to type=local":                     "where? Add dest=",
		"--cache-from type=registry":                "where? Add ref=",
		"--build-context A:B:C=.":                   "invalid reference format",
		"--secret id=a,what=b":                      "unexpected key 'what'",
		"--ssh default=/nowhere/agent":              "/nowhere/agent",
		"--check":                                   "docker buildx build --check",
		"--call outline":                            "docker buildx build --call",
		"--squash":                                  "BuildKit has no --squash",
		"--isolation hyperv":                        "isolated by runc",
		"--security-opt seccomp=x":                  "RUN --security=insecure",
		"--builder mine":                            "kairos build is a builder of its own",
		"--policy filename=x":                       "docker buildx build --policy",
	} {
		if _, _, err := parseBuild(t, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

// Annotations are attributes of each output that is an image, by the part that they are of.
func TestAnnotations(t *testing.T) {
	_, outs, err := parseBuild(t, "--annotation", "a=b c", "--annotation", "index,manifest[linux/amd64]:org.x=y=z",
		"-o", "type=oci,dest=x.tar", "-o", "type=iso,dest=x.iso", "--tag", "os", "--push")
	if err != nil || len(outs) != 3 {
		t.Fatalf("%+v, %v", outs, err)
	}
	for _, out := range outs {
		for name, value := range map[string]string{
			"annotation.a": "b c", "annotation-index.org.x": "y=z", "annotation-manifest[linux/amd64].org.x": "y=z",
		} {
			if got, ok := out.attrs[name]; ok != out.isImage() || ok && got != value {
				t.Errorf("%s: %s=%q, %v", out.typ, name, got, ok)
			}
		}
	}
}

// The ID is the config's digest, or an index's where there is no one config.
func TestImageID(t *testing.T) {
	for want, resp := range map[string]map[string]string{
		"sha256:c": {"containerimage.config.digest": "sha256:c", "containerimage.digest": "sha256:m"},
		"sha256:i": {"containerimage.digest": "sha256:i"},
	} {
		file := filepath.Join(t.TempDir(), "id")
		var out strings.Builder
		o := buildOptions{iidFile: file, quiet: true}
		if err := o.writeID(&client.SolveResponse{ExporterResponse: resp}, streams{out: &out}); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != want || out.String() != want+"\n" {
			t.Errorf("%q, %q, %v", b, out.String(), err)
		}
	}
	if err := (&buildOptions{iidFile: "x"}).writeID(&client.SolveResponse{}, streams{}); err == nil {
		t.Error("no ID, and no error")
	}
}
