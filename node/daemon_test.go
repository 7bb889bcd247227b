//go:build vm

package node

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/node/fetch"
)

// containerdBin builds the containerd whose libraries we use, from its own module.
func containerdBin(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("KAIROS_TEST_CONTAINERD"); bin != "" {
		return bin
	}
	dir := strings.TrimSpace(tool(t, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/containerd/containerd/v2"))
	out := t.TempDir()
	for _, f := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(out, f), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command(
		"go",
		"build",
		"-mod=mod",
		"-modfile="+filepath.Join(out, "go.mod"),
		"-o",
		filepath.Join(out, "containerd"),
		"./cmd/containerd",
	)
	c.Dir = dir
	if b, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build containerd: %v\n%s", err, b)
	}
	return filepath.Join(out, "containerd")
}

// startContainerd runs a daemon whose EROFS snapshotter has a store's blobs as its cache.
func startContainerd(t *testing.T, blobs string) (address string) {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "ctd") // a short name for the socket, a disk for the rest
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := filepath.Join(dir, "config.toml")
	address = filepath.Join(dir, "sock")
	if err := os.WriteFile(config, []byte(fmt.Sprintf(`version = 3
root = %q
state = %q
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"]
[grpc]
  address = %q
[ttrpc]
  address = %q
[plugins."io.containerd.snapshotter.v1.erofs"]
  layer_content_caches = [%q]
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), address, address+".ttrpc", blobs)), 0o644); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	c := exec.Command(containerdBin(t), "--config", config)
	c.Stdout, c.Stderr = &log, &log
	// It says when it listens, by sd_notify(3).
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { notify.Close() })
	c.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify.LocalAddr().String())
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		c.Wait()
		close(ended)
		notify.Close()
	}()
	t.Cleanup(func() {
		c.Process.Signal(os.Interrupt)
		<-ended
		if t.Failed() {
			t.Logf("containerd says:\n%s", log.String())
		}
	})
	for b := make([]byte, 4096); ; {
		n, err := notify.Read(b)
		if err != nil {
			t.Fatalf("containerd does not listen: %v", err)
		}
		if strings.Contains(string(b[:n]), "READY=1") {
			return address
		}
	}
}

// With the node's own containerd the result is the same, and the release's layers are its snapshots.
func TestRunningContainerd(t *testing.T) {
	a, b, _ := threeImages(t)
	disk := t.TempDir()
	m := install(t, disk, "uefi", t.TempDir(), a)
	address := startContainerd(t, filepath.Join(disk, stateDir, "blobs"))
	srv := httptest.NewServer(&fakeRegistry{dir: b.dir})
	defer srv.Close()
	r, err := m.Upgrade(t.Context(), UpgradeOptions{
		Source:     source.Ref{Kind: source.Registry, Name: strings.TrimPrefix(srv.URL, "http://") + "/os:v2"},
		Containerd: address, Progress: func(e Event) {
			if e.Step == "note" {
				t.Log(e.Text)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if order, err := bootable(disk, "uefi"); err != nil || order[0].ID != b.id || r.Release != b.id {
		t.Errorf("boots %v, %v", order, err)
	}
	c, err := client.New(address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := namespaces.WithNamespace(t.Context(), fetch.Namespace)
	names := map[string]bool{}
	err = c.SnapshotService("erofs").Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Kind == snapshots.KindCommitted {
			names[i.Name] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// One more than the image has layers: folders that its layers only imply have one of their own.
	if want := len(b.layers) + 1; len(names) != want {
		t.Errorf("%d snapshots, want %d", len(names), want)
	}
	// What is in containerd is a source too.
	if _, err := m.Upgrade(t.Context(),
		UpgradeOptions{
			Source:     source.Ref{Kind: source.Containerd, Name: "no.such/image:v1"},
			Containerd: address,
		}); err == nil ||
		!strings.Contains(err.Error(), "has no image") {
		t.Errorf("an image that containerd does not have: %v", err)
	}
}
