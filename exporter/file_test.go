package exporter

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func hello(w io.Writer) error {
	_, err := io.WriteString(w, "hello\n")
	return err
}

func TestWriteFileIsWhatSha256sumChecks(t *testing.T) {
	dir := t.TempDir()
	sum, err := WriteFile(filepath.Join(dir, "os.iso"), hello)
	if err != nil {
		t.Fatal(err)
	}
	if sum != "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03" {
		t.Errorf("sum %s", sum)
	}
	cmd := exec.Command("sha256sum", "-c", "os.iso.sha256")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "os.iso: OK\n" {
		t.Errorf("sha256sum: %s %v", out, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "os.iso"), []byte("damage"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command("sha256sum", "-c", "os.iso.sha256")
	cmd.Dir = dir
	if err := cmd.Run(); err == nil {
		t.Error("sha256sum accepts a damaged file")
	}
	onlyFiles(t, dir, "os.iso", "os.iso.sha256")
}

// A disk that is mostly zero takes little room, and reads as what was written.
func TestWriteFileMakesHoles(t *testing.T) {
	name := filepath.Join(t.TempDir(), "os.raw")
	want := make([]byte, 64<<20+100)
	copy(want[10<<20:], "content")
	_, err := WriteFile(name, func(w io.Writer) error {
		_, err := w.Write(want)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; want %d", len(got), err, len(want))
	}
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("the file takes %d bytes (%v)", st.Blocks*512, err)
	}
}

// Whatever fails, the final name never has part of a file, and an older file stays.
func TestWriteFileLeavesNothingHalf(t *testing.T) {
	for name, failure := range map[string]error{
		"the disk is full": unix.ENOSPC,
		"no permission":    unix.EACCES,
		"interrupted":      errors.New("interrupted"),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fail := func(w io.Writer) error {
				if err := hello(w); err != nil {
					return err
				}
				return failure
			}
			_, err := WriteFile(filepath.Join(dir, "os.iso"), fail)
			if !errors.Is(err, failure) || !strings.Contains(err.Error(), name) {
				t.Errorf("%v, want it to say %q", err, name)
			}
			onlyFiles(t, dir)
			if _, err := WriteFile(filepath.Join(dir, "os.iso"), hello); err != nil {
				t.Fatal(err)
			}
			if _, err := WriteFile(filepath.Join(dir, "os.iso"), fail); err == nil {
				t.Error("no error")
			}
			onlyFiles(t, dir, "os.iso", "os.iso.sha256")
			if b, err := os.ReadFile(filepath.Join(dir, "os.iso")); err != nil || string(b) != "hello\n" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

func TestWriteFileRefusesPlaces(t *testing.T) {
	dir := t.TempDir()
	for name, want := range map[string]string{
		dir:                               "not a regular file",
		filepath.Join(dir, "no", "where"): "its folder",
		"/dev/null":                       "not a regular file",
	} {
		if _, err := WriteFile(name, hello); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	// Two at the same place at the same time.
	_, err := WriteFile(filepath.Join(dir, "os.iso"), func(w io.Writer) error {
		_, err := WriteFile(filepath.Join(dir, "os.iso"), hello)
		if err == nil || !strings.Contains(err.Error(), "another export") {
			t.Errorf("second export: %v", err)
		}
		return hello(w)
	})
	if err != nil {
		t.Error(err)
	}
}

func onlyFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the folder has %v, want %v", got, want)
	}
}
