//go:build vm

package doors

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/kairos-buildkit/kairos/internal/qemu"
)

// Every door to the same image gives the same ISO, and it boots.
func TestAllDoorsGiveOneISO(t *testing.T) {
	buildKairos(t, "--output", "type=iso,dest=kairos.iso", "--output", "type=oci,dest=image.tar")

	socket := filepath.Join(t.TempDir(), "builder.sock")
	daemon := command(
		context.Background(),
		kairosBin,
		"--root",
		filepath.Join(toolDir, "daemon"),
		"--addr",
		"unix://"+socket,
		"--oci-worker-net",
		"host",
	)
	daemon.Args[0] = "buildkitd" // the name under which it is the daemon
	waitFor(t, socket, start(t, daemon))
	run(t, tool(t, "buildx"), "create", "--name", "ours", "--driver", "remote", "unix://"+socket)

	buildx(
		t,
		"ours",
		contextDir,
		"--output",
		"type=tar,format=iso,dest=tar.iso",
		"--output",
		"type=local,format=iso,dest=folder",
	)
	if out, err := tryRun(inDir(exec.Command("sha256sum", "--check", "os.iso.sha256"), "folder")); err != nil {
		t.Error(out, err)
	}

	// A bare type=iso says how to fetch the file, and that command works.
	log := buildx(t, "ours", contextDir, "--output", "type=iso")
	fetch := regexp.MustCompile(`docker buildx (history inspect attachment --type \S+ \S+) > os\.iso`).
		FindStringSubmatch(log)
	if fetch == nil {
		t.Fatalf("no command to fetch the ISO with in\n%s", log)
	}
	c := command(t.Context(), tool(t, "buildx"), append([]string{"--builder", "ours"}, strings.Fields(fetch[1])...)...)
	file, err := os.Create(filepath.Join(workDir, "attachment.iso"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c.Stdout = file
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}

	// Pushed: the image, and the ISO as an artifact that refers to it.
	ref := startRegistry(t) + "/os:v1"
	buildx(t, "ours", contextDir, "--output", "type=iso,name="+ref+",push=true", "--metadata-file", "metadata.json")
	pulled := referrer(t, ref)
	export(t, "--output", "type=iso,dest=registry.iso", ref)
	export(t, "--output", "type=iso,dest=archive.iso", "oci-archive:image.tar")

	same(t, "kairos.iso", "tar.iso", "folder/os.iso", "attachment.iso", pulled, "registry.iso", "archive.iso")
	boot(t, qemu.UEFI, qemu.Drive{Path: filepath.Join(workDir, "tar.iso"), CDROM: true})

	for want, output := range map[string]string{
		`attribute "sise" is not known`: "type=iso,sise=3",
		`format "floppy" is not known`:  "type=tar,format=floppy,dest=none.iso",
		"push where":                    "type=iso,push=true",
	} {
		out, err := tryRun(
			command(
				t.Context(),
				tool(t, "buildx"),
				"build",
				"--builder",
				"ours",
				"--build-context",
				baseContext+baseLayout,
				"--output",
				output,
				contextDir,
			),
		)
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: want %q in\n%s", output, want, out)
		}
	}
	if _, err := os.Stat(filepath.Join(workDir, "none.iso")); err == nil {
		t.Error("a refused build left a file")
	}
}

func inDir(c *exec.Cmd, dir string) *exec.Cmd {
	c.Dir = filepath.Join(workDir, dir)
	return c
}

// referrer fetches the one artifact that refers to an image, and returns its file's name.
func referrer(t *testing.T, s string) string {
	t.Helper()
	ref, err := name.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := remote.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Referrers(ref.Context().Digest(desc.Digest.String()))
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil || len(list.Manifests) != 1 {
		t.Fatalf("referrers %+v, %v", list, err)
	}
	artifact, err := remote.Image(ref.Context().Digest(list.Manifests[0].Digest.String()))
	if err != nil {
		t.Fatal(err)
	}
	m, err := artifact.Manifest()
	if err != nil || len(m.Layers) != 1 || m.Subject == nil || m.Subject.Digest != desc.Digest {
		t.Fatalf("artifact %+v, %v", m, err)
	}
	resp, err := http.Get(
		"http://" + ref.Context().
			RegistryStr() +
			"/v2/" + ref.Context().
			RepositoryStr() +
			"/blobs/" + m.Layers[0].Digest.String(),
	)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	file, err := os.Create(filepath.Join(workDir, "pulled.iso"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return "pulled.iso"
}

// startStock has a stock buildkitd be the builder "stock", and returns a context that it builds: nothing of it is ours
// but the frontend's image.
func startStock(t *testing.T) (dir string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "stock.sock")
	ended := start(
		t,
		command(
			context.Background(),
			tool(t, "buildkitd"),
			"--root",
			filepath.Join(toolDir, "stock"),
			"--addr",
			"unix://"+socket,
			"--oci-worker-net",
			"host",
		),
	)
	waitFor(t, socket, ended)
	remoteBuilder(t, "stock", socket)
	syntax := startRegistry(t) + "/kairos-frontend:test"
	push(t, "frontend", syntax)
	dir = filepath.Join(workDir, "stock-context")
	if err := writeDockerfile(dir, syntax); err != nil {
		t.Fatal(err)
	}
	return dir
}

// remoteBuilder makes buildx know a daemon by a name until the test ends.
func remoteBuilder(t *testing.T, name, socket string) {
	t.Helper()
	run(t, tool(t, "buildx"), "create", "--name", name, "--driver", "remote", "unix://"+socket)
	t.Cleanup(func() {
		_, _ = tryRun(command(context.Background(), tool(t, "buildx"), "rm", name))
	})
}

// A stock buildkitd makes media that boot, and images with its own provenance.
func TestStockBuildKit(t *testing.T) {
	dir := startStock(t)

	buildx(t, "stock", dir, "--target", "iso", "--output", "type=local,dest=stock-iso")
	if out, err := tryRun(inDir(exec.Command("sha256sum", "--check", "os.iso.sha256"), "stock-iso")); err != nil {
		t.Error(out, err)
	}
	boot(t, qemu.BIOS, qemu.Drive{Path: filepath.Join(workDir, "stock-iso/os.iso"), CDROM: true})

	buildx(t, "stock", dir, "--target", "raw", "--output", "type=local,dest=stock-raw")
	boot(t, qemu.UEFI, qemu.Drive{Path: filepath.Join(workDir, "stock-raw/os.raw"), Snapshot: true})

	// The image: the one that our builder makes, with the provenance that the stock frontend makes.
	buildx(
		t,
		"stock",
		dir,
		"--provenance",
		"mode=max",
		"--output",
		"type=oci,rewrite-timestamp=true,tar=false,dest=stock-oci",
	)
	statements(t, "stock-oci", "https://slsa.dev/provenance/")

	if out := buildx(t, "stock", dir, "--check"); !strings.Contains(out, "no warnings") {
		t.Errorf("--check: %s", out)
	}
	out, err := tryRun(
		command(
			t.Context(),
			tool(t, "buildx"),
			"build",
			"--builder",
			"stock",
			"--build-context",
			baseContext+baseLayout,
			"--output",
			"type=iso",
			dir,
		),
	)
	if err == nil || !strings.Contains(out, `exporter "iso" could not be found`) {
		t.Errorf("type=iso on a stock daemon: %s", out)
	}
}

// statements looks for an attestation in an OCI layout.
func statements(t *testing.T, dir, predicate string) {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(workDir, dir, "blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range blobs {
		if info, err := os.Stat(blob); err != nil || info.Size() > 4<<20 {
			continue
		}
		b, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		var s struct {
			PredicateType string `json:"predicateType"`
		}
		if json.Unmarshal(b, &s) == nil && strings.HasPrefix(s.PredicateType, predicate) {
			return
		}
	}
	t.Errorf("%s: no statement of type %s", dir, predicate)
}

// push pushes one of the project's images to a registry.
func push(t *testing.T, image, to string) {
	t.Helper()
	if _, err := tools(); err != nil { // it makes the images, where they are not of what is tested
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(filepath.Join(imagesDir, image))
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(to)
	if err != nil {
		t.Fatal(err)
	}
	if m.Manifests[0].MediaType.IsIndex() {
		nested, err := index.ImageIndex(m.Manifests[0].Digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(ref, nested); err != nil {
			t.Fatal(err)
		}
		return
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
}

// A real Docker engine: the docker-container driver with our builder's image, and an image
// that was changed by hand and committed.
func TestDockerEngine(t *testing.T) {
	tool(t, "buildx")
	socket := filepath.Join(t.TempDir(), "docker.sock")
	data, execRoot := filepath.Join(toolDir, "docker"), t.TempDir()
	// The engine leaves a mount behind. Registered first, so that it is the last to run.
	t.Cleanup(func() { _ = syscall.Unmount(filepath.Join(execRoot, "netns/default"), syscall.MNT_DETACH) })
	// No bridge and no firewall: that is more than a test may change on a machine.
	engine := command(
		context.Background(),
		"dockerd",
		"--data-root",
		data,
		"--exec-root",
		execRoot,
		"--pidfile",
		filepath.Join(t.TempDir(), "pid"),
		"--host",
		"unix://"+socket,
		"--bridge=none",
		"--iptables=false",
		"--add-runtime",
		"test="+tool(t, "runtime"),
		"--default-runtime",
		"test",
	)
	waitFor(t, socket, start(t, engine))
	t.Setenv("DOCKER_HOST", "unix://"+socket)
	docker := dockerCLI(t)

	loadBuilder(t, docker)
	create := tool(t, "buildx")
	run(
		t,
		create,
		"create",
		"--name",
		"container",
		"--driver",
		"docker-container",
		"--driver-opt",
		"image=kairos-builder:test,network=host",
		"unix://"+socket,
	)
	t.Cleanup(func() { _, _ = tryRun(command(context.Background(), create, "rm", "container")) })
	buildx(t, "container", contextDir, "--output", "type=tar,format=iso,dest=container.iso")
	boot(t, qemu.UEFI, qemu.Drive{Path: filepath.Join(workDir, "container.iso"), Snapshot: true})

	buildKairos(t, "--tag", "kairos-test/os:v1", "--load")
	out := run(
		t,
		docker,
		"run",
		"--name",
		"changed",
		"--network",
		"none",
		"kairos-test/os:v1",
		"sh",
		"-c",
		"cat /usr/lib/demo/file && echo changed > /usr/lib/demo/file",
	)
	t.Cleanup(func() { _, _ = tryRun(command(context.Background(), docker, "rm", "-f", "changed")) })
	if !strings.Contains(out, "from the Dockerfile") {
		t.Errorf("docker run: %s", out)
	}
	run(t, docker, "commit", "changed", "kairos-test/os:v2")
	export(t, "--output", "type=iso,dest=committed.iso", "docker:kairos-test/os:v2")
	run(t, docker, "save", "-o", "saved.tar", "kairos-test/os:v2")
	export(t, "--output", "type=iso,dest=saved.iso", "docker-archive:saved.tar")
	same(t, "committed.iso", "saved.iso")
	vm := boot(t, qemu.BIOS, qemu.Drive{Path: filepath.Join(workDir, "committed.iso"), CDROM: true})
	vm.RootShell()
	vm.Check("grep -qx changed /usr/lib/demo/file")
}

// dockerCLI is Debian's: another program of that name may come first on PATH.
func dockerCLI(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/usr/bin/docker"); err == nil {
		return "/usr/bin/docker"
	}
	docker, err := exec.LookPath("docker")
	if err != nil {
		t.Fatal(err)
	}
	return docker
}

// loadBuilder puts the builder's image into the engine.
func loadBuilder(t *testing.T, docker string) {
	t.Helper()
	host := startRegistry(t) + "/kairos-builder:test"
	push(t, "builder", host)
	ref, err := name.ParseReference(host)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("kairos-builder:test")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(workDir, "builder.tar")
	if err := tarball.WriteToFile(file, tag, img); err != nil {
		t.Fatal(err)
	}
	run(t, docker, "load", "-i", file)
}
