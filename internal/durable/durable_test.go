package durable

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestStepsOfAFile(t *testing.T) {
	dir := t.TempDir()
	var steps []Kind
	f := &FS{Before: func(s Step) error { steps = append(steps, s.Kind); return nil }}
	path := filepath.Join(dir, "a", "b")
	if err := f.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []Kind{Mkdir, SyncDir, Create, Sync, Rename, SyncDir}
	if len(steps) != len(want) {
		t.Fatalf("steps %v, want %v", steps, want)
	}
	for i := range want {
		if steps[i] != want[i] {
			t.Fatalf("steps %v, want %v", steps, want)
		}
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestEndedRunLeavesTheOldFile(t *testing.T) {
	stop := errors.New("stop")
	for n := 1; n <= 4; n++ {
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		k := 0
		f := &FS{Before: func(Step) error {
			if k++; k == n {
				return stop
			}
			return nil
		}}
		err := f.WriteFile(path, []byte("new"), 0o600)
		if !errors.Is(err, stop) {
			t.Fatalf("step %d: %v", n, err)
		}
		b, err := os.ReadFile(path)
		if want := map[bool]string{true: "old", false: "new"}[n <= 3]; err != nil || string(b) != want {
			t.Errorf("ended at step %d: %q, %v; want %q", n, b, err, want)
		}
	}
}

func TestUnfinishedFileIsLocked(t *testing.T) {
	var f *FS
	path := filepath.Join(t.TempDir(), "f")
	file, err := f.Create(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Create(path, 0o600); !errors.Is(err, ErrBusy) {
		t.Errorf("second: %v", err)
	}
	if err := f.RemoveLeftovers(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file.Name()); err != nil {
		t.Error("a file that is being written was taken for a leftover")
	}
	file.Close() // as when its process ends
	if err := f.RemoveLeftovers(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file.Name()); err == nil {
		t.Error("leftover not removed")
	}
}
