//go:build vm

// Package live tests the way from a Dockerfile to a machine that has booted its ISO: with the
// program that a person runs, on examples/debian, in virtual machines.
//
// `make test-vm` makes what it starts from: build/bin/kairos and build/base. It runs as root.
// Images are built once and shared by the tests; the builder's state is kept in build/test, so
// that a second run is quick.
package live

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	"github.com/kairos-buildkit/kairos/layout"
)

// Paths from this folder.
const (
	exampleDir = "../../examples/debian"
	kairosBin  = "../../build/bin/kairos"
	baseLayout = "../../build/base/debian-trixie"
	workDir    = "../../build/test/live"
	stateDir   = "../../build/test/live-state" // its own: a step that had a secret is found in a cache without it
)

// epoch is SOURCE_DATE_EPOCH of the shared images: 2026-03-01.
const epoch = "1772323200"

func TestMain(m *testing.M) {
	vmtest.Main(m, workDir, nil, kairosBin, baseLayout+"/index.json")
}

// runKairos runs the program and returns what it printed.
func runKairos(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	return runKairosCtx(ctx, args...)
}

func runKairosCtx(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, kairosBin, args...)
	// What the person who tests has in the environment is not part of the test.
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=", "DOCKER_CONFIG=/nonexistent")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err != nil {
		return out.String(), fmt.Errorf("kairos %s: %w\n%s", strings.Join(args, " "), err, tail(out.String(), 40))
	}
	return out.String(), nil
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// buildArgs are the arguments that all builds have.
func buildArgs(more ...string) []string {
	return append([]string{"build", "--progress", "plain", "--root", stateDir,
		"--build-context", "debian:trixie=oci-layout://" + baseLayout}, more...)
}

// build runs `kairos build` and returns what it printed.
func build(t *testing.T, args ...string) string {
	t.Helper()
	out, err := runKairos(buildArgs(args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// image is a built image: as ISO, and as OCI layout with the tag latest.
type image struct{ iso, oci, log string }

// buildImage builds a context as ISO and as OCI layout, in workDir.
func buildImage(name string, args ...string) (image, error) {
	img := image{iso: filepath.Join(workDir, name+".iso"), oci: filepath.Join(workDir, name+".oci")}
	args = append(buildArgs(
		"--output", "type=iso,dest="+img.iso,
		"--output", "type=oci,tar=false,rewrite-timestamp=true,dest="+img.oci,
		"--build-arg", "SOURCE_DATE_EPOCH="+epoch), args...)
	var err error
	img.log, err = runKairos(args...)
	return img, err
}

// The account in the example's image, from a build secret.
const (
	user         = "tester"
	passwordHash = "$6$kairos$IXRWxfcG9GSfaPSl3Ovc57XMZ122WTYXm45IJaV8apjGRYa29mhd9paI7AXsuc9r69rvH9wU8ufzhKWD6L8Ku1"
)

func secretArgs() ([]string, error) {
	file := filepath.Join(workDir, "user.secret")
	err := os.WriteFile(file, []byte(user+":"+passwordHash+"\n"), 0o600)
	return []string{"--secret", "id=user,src=" + file}, err
}

// exampleLabels give the image a root shell for the tests.
func exampleLabels() []string {
	return []string{"--label", layout.ImageLabelCmdline + "=" + vmtest.RootShellCmdline}
}

// example is examples/debian with an account, and a root shell for the tests.
var example = sync.OnceValues(func() (image, error) {
	secret, err := secretArgs()
	if err != nil {
		return image{}, err
	}
	return buildImage("example", append(append(secret, exampleLabels()...), exampleDir)...)
})

// derived is an ordinary image on top of the example: no syntax line, files of every kind added
// and removed. See its Dockerfile.
var derived = sync.OnceValues(func() (image, error) {
	base, err := example()
	if err != nil {
		return image{}, err
	}
	files := filepath.Join(workDir, "files")
	if err := os.MkdirAll(files, 0o777); err != nil {
		return image{}, err
	}
	if err := os.WriteFile(filepath.Join(files, "random.bin"), randomBytes(64<<10), 0o644); err != nil {
		return image{}, err
	}
	return buildImage("derived", "--build-context", "example=oci-layout://"+base.oci,
		"--build-context", "files="+files, "testdata/derived")
})

// otherKernel is an ordinary image on top of the example, with another kernel.
var otherKernel = sync.OnceValues(func() (image, error) {
	base, err := example()
	if err != nil {
		return image{}, err
	}
	return buildImage("kernel", "--build-context", "example=oci-layout://"+base.oci, "testdata/kernel")
})

func get(t *testing.T, img func() (image, error)) image {
	t.Helper()
	i, err := img()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// rootShell waits for the login prompt and starts a root shell.
func rootShell(vm *vmtest.VM) {
	vm.WaitLogin()
	vm.RootShell()
}

func cdrom(file string) qemu.Drive { return qemu.Drive{Path: file, CDROM: true} }

func disk(file string, bus qemu.Bus) qemu.Drive {
	return qemu.Drive{Path: file, Bus: bus, Snapshot: true}
}
