//go:build vm

// Package doors tests the ways from a Dockerfile or an image to a medium that do not begin with
// `kairos build`: real buildx with the builder as a daemon and in a real Docker engine, a stock buildkitd
// with the frontend's image from a registry, and `kairos export`. See docs/outputs.md.
//
// `make test-vm` makes what it starts from. It runs as root. Clients, daemon and images of others are
// built from their modules into build/test/doors, where a second run finds them.
package doors

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	"github.com/kairos-buildkit/kairos/layout"
)

// Absolute paths, for clients and daemons have working folders of their own.
var (
	repo       = abs("../..")
	kairosBin  = filepath.Join(repo, "build/bin/kairos")
	baseLayout = filepath.Join(repo, "build/base/debian-trixie")
	toolDir    = filepath.Join(repo, "build/test/doors")
	imagesDir  = filepath.Join(repo, "build/images")
	workDir    = filepath.Join(repo, "build/test/doors/work")
	contextDir = filepath.Join(workDir, "context")
)

const epoch = "1772323200" // 2026-03-01

const dockerfile = `FROM debian:trixie
RUN mkdir -p /usr/lib/demo && echo "from the Dockerfile" > /usr/lib/demo/file && echo demo > /etc/hostname-of-demo
`

func abs(p string) string {
	a, err := filepath.Abs(p)
	if err != nil {
		panic(err)
	}
	return a
}

func TestMain(m *testing.M) {
	vmtest.Main(m, workDir, func() error { return writeDockerfile(contextDir, "kairos") }, kairosBin,
		baseLayout+"/index.json")
}

// rootShell is the line of a Dockerfile that gives a system a root shell for the tests.
var rootShell = fmt.Sprintf("LABEL %s=%q\n", layout.ImageLabelCmdline, vmtest.RootShellCmdline)

func writeDockerfile(dir, syntax string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	text := "# syntax=" + syntax + "\n" + dockerfile + rootShell
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o666)
}

// command is a program with an environment that is the test's alone.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(
		os.Environ(),
		"SOURCE_DATE_EPOCH="+epoch,
		"DOCKER_CONFIG=/nonexistent",
		"BUILDX_CONFIG="+filepath.Join(workDir, "buildx"),
	)
	c.Dir = workDir
	return c
}

// tryRun runs a program, and returns what it printed.
func tryRun(c *exec.Cmd) (string, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		return out.String(), fmt.Errorf(
			"%s: %w\n%s",
			strings.Join(c.Args, " "),
			err,
			strings.Join(lines[max(0, len(lines)-40):], "\n"),
		)
	}
	return out.String(), nil
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	out, err := tryRun(command(ctx, name, args...))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// start runs a daemon until the test ends. The channel is closed when the daemon has ended.
func start(t *testing.T, c *exec.Cmd) <-chan struct{} {
	t.Helper()
	log, err := os.Create(
		filepath.Join(workDir, strings.ReplaceAll(t.Name(), "/", "-")+"-"+filepath.Base(c.Args[0])+".log"),
	)
	if err != nil {
		t.Fatal(err)
	}
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = c.Wait(); close(done) }()
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			_ = c.Process.Kill()
			<-done
		}
		log.Close()
	})
	return done
}

// waitFor waits for a daemon's socket.
func waitFor(t *testing.T, socket string, ended <-chan struct{}) {
	t.Helper()
	for {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("nothing listens on %s: the daemon has ended", socket)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// tools are others' programs, built from their modules.
var tools = sync.OnceValues(func() (map[string]string, error) {
	script := `set -eu
mkdir -p "$TOOLS"
cd "$REPO"
[ -x "$TOOLS/buildx" ] || GOBIN="$TOOLS" go install github.com/docker/buildx/cmd/buildx@v0.38.2
if [ ! -x "$TOOLS/buildkitd" ]; then
	src=$(go list -m -f '{{.Dir}}' github.com/moby/buildkit)
	tmp=$(mktemp -d)
	cp -r "$src/." "$tmp"
	chmod -R u+w "$tmp"
	(cd "$tmp" && CGO_ENABLED=0 go build -mod=mod -o "$TOOLS/buildkitd" ./cmd/buildkitd)
	rm -rf "$tmp"
fi
CGO_ENABLED=0 go build -o "$TOOLS/runtime" ./test/doors/runtime
scripts/deps docker.io
[ build/images/builder -nt build/bin/kairos ] || IMAGES="frontend builder" scripts/images "$(go env GOARCH)"
`
	c := exec.Command("sh", "-c", script)
	c.Env = append(os.Environ(), "TOOLS="+toolDir, "REPO="+repo)
	if _, err := tryRun(c); err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, name := range []string{"buildx", "buildkitd", "runtime"} {
		found[name] = filepath.Join(toolDir, name)
	}
	return found, nil
})

func tool(t *testing.T, name string) string {
	t.Helper()
	all, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	return all[name]
}

// startRegistry starts a registry on the loopback address, and returns its host and port.
func startRegistry(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{
		Handler: registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))),
	}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return "localhost:" + fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
}

const baseContext = "debian:trixie=oci-layout://"

// buildx builds the context with a builder.
func buildx(t *testing.T, builder, dir string, args ...string) string {
	t.Helper()
	return run(t, tool(t, "buildx"), append(append([]string{"build", "--builder", builder, "--progress", "plain",
		"--build-context", baseContext + baseLayout}, args...), dir)...)
}

// buildKairos builds the context with `kairos build`.
func buildKairos(t *testing.T, args ...string) string {
	t.Helper()
	return run(
		t,
		kairosBin,
		append(append([]string{"build", "--progress", "plain", "--root", filepath.Join(toolDir, "state"),
			"--build-context", baseContext + baseLayout}, args...), contextDir)...)
}

func export(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, kairosBin, append([]string{"export", "--cache", filepath.Join(toolDir, "cache")}, args...)...)
}

// same says whether files are equal, byte for byte.
func same(t *testing.T, first string, others ...string) {
	t.Helper()
	for _, other := range others {
		out, err := tryRun(command(t.Context(), "cmp", filepath.Join(workDir, first), filepath.Join(workDir, other)))
		if err != nil {
			t.Errorf("%s and %s differ: %s", first, other, out)
		}
	}
}

// boot boots a medium to its login prompt.
func boot(t *testing.T, firmware qemu.Firmware, drives ...qemu.Drive) *vmtest.VM {
	t.Helper()
	vm := vmtest.Start(t, qemu.Machine{Firmware: firmware, NoReboot: true, Drives: drives})
	vm.WaitLogin()
	return vm
}
