//go:build vm

package node

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/image/source"
)

const memoryEnv = "KAIROS_TEST_MEMORY"

// An upgrade takes little memory, however large the image is. It runs in a process of its own, so
// that what the test needs is not counted.
func TestMemoryOfALargeUpgrade(t *testing.T) {
	if dir := os.Getenv(memoryEnv); dir != "" {
		m := fakeMachine(t, filepath.Join(dir, "disk"), "uefi", idA, filepath.Join(dir, "cache"), nil)
		_, err := m.Upgrade(t.Context(),
			UpgradeOptions{Source: source.Ref{Kind: source.OCIArchive, Name: filepath.Join(dir, "os.tar")}})
		if err != nil {
			t.Fatal(err)
		}
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "status"), status, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	dir, err := os.MkdirTemp("/var/tmp", "memory")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	layers := [][]byte{bootLayer(t, "loader 1")}
	for i := range 4 {
		files := map[string]string{}
		for j := range 16 {
			files[fmt.Sprintf("usr/%d-%d", i, j)] = strings.Repeat(noise(1<<20)+strings.Repeat(fmt.Sprint(i, j),
				400_000), 16)[:32<<20]
		}
		layers = append(layers, tarOf(t, files))
	}
	img := newImage(t, runtime.GOARCH, layers...)
	layers = nil
	tool(t, "tar", "-C", img.dir, "-cf", filepath.Join(dir, "os.tar"), ".")
	for _, d := range []string{stateDir, espDir, recoveryDir, oemDir} {
		if err := os.MkdirAll(filepath.Join(dir, "disk", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command(os.Args[0], "-test.run", "^TestMemoryOfALargeUpgrade$")
	c.Env = append(os.Environ(), memoryEnv+"="+dir)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// Not the child's rusage, which begins with what its parent had.
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		t.Fatal(err)
	}
	var peak int64
	if _, after, ok := strings.Cut(string(status), "VmHWM:"); !ok {
		t.Fatalf("no VmHWM in\n%s", status)
	} else if _, err := fmt.Sscan(after, &peak); err != nil {
		t.Fatal(err)
	}
	peak <<= 10
	t.Logf("peak memory %d MB", peak/1_000_000)
	if peak > 128<<20 {
		t.Errorf("peak memory %d bytes, more than 128 MiB", peak)
	}
}
