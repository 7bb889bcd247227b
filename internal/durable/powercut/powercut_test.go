package powercut

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kairos-buildkit/kairos/internal/durable"
)

// states runs do on a folder with a file "f" of old content, and returns what f may hold after a
// power cut anywhere.
func states(t *testing.T, do func(f *durable.FS, path string) error) map[string]bool {
	t.Helper()
	root := t.TempDir()
	path := filepath.Join(root, "f")
	if err := os.WriteFile(path, []byte("old content"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := New(root)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	r.Cut = func(_ int, _ durable.Step, disks []State) error {
		for _, s := range disks {
			f, ok := s["f"]
			if !ok {
				found["missing"] = true
			} else {
				found[string(f.Data)] = true
			}
		}
		return nil
	}
	if err := do(&durable.FS{Before: r.Before}, path); err != nil {
		t.Fatal(err)
	}
	if err := r.Finish(); err != nil {
		t.Fatal(err)
	}
	return found
}

func TestDurableOrderLeavesOldOrNew(t *testing.T) {
	got := states(t, func(f *durable.FS, path string) error { return f.WriteFile(path, []byte("new content"), 0o644) })
	if len(got) != 2 || !got["old content"] || !got["new content"] {
		t.Errorf("states %v", got)
	}
}

// Broken on purpose: what the order is there to prevent is seen where it is not kept.
func TestMissingSyncIsSeen(t *testing.T) {
	got := states(t, func(f *durable.FS, path string) error {
		file, err := f.Create(path, 0o644)
		if err != nil {
			return err
		}
		defer file.Close()
		if _, err := file.WriteString("new content"); err != nil {
			return err
		}
		return f.Rename(file.Name(), path) // without Sync
	})
	if !got[""] && !got["new c"] {
		t.Errorf("no torn file among %v", got)
	}
	got = states(t, func(f *durable.FS, path string) error {
		if err := f.Remove(path); err != nil {
			return err
		}
		return f.WriteFile(path, []byte("new content"), 0o644)
	})
	if !got["missing"] {
		t.Errorf("no missing file among %v", got)
	}
}
