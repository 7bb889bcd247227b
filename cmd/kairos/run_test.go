package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
)

func imageFile(t *testing.T, name string, size int, at int, data string) string {
	t.Helper()
	b := make([]byte, size)
	copy(b[at:], data)
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func runArgs(ctx context.Context, out io.Writer, args ...string) error {
	cmd := newRunCommand(streams{strings.NewReader(""), out, out})
	cmd.SetArgs(args)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	return cmd.ExecuteContext(ctx)
}

func TestRunRejects(t *testing.T) {
	disk := imageFile(t, "disk.img", 1<<16, 0, "")
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"no file", nil, "needs one FILE"},
		{"two files", []string{disk, disk}, "needs one FILE"},
		{"absent", []string{"/nonexistent/os.iso"}, "/nonexistent/os.iso: no such file"},
		{"folder", []string{"/"}, "want an ISO or a disk image"},
		{"both firmwares", []string{"--uefi", "--bios", disk}, "[uefi bios]"},
		{"both media", []string{"--cdrom", "--disk", disk}, "[cdrom disk]"},
		{"memory", []string{"--memory", "lots", disk}, "for example 2g"},
		{"little memory", []string{"--memory", "16m", disk}, "at least 128m"},
		{"port", []string{"-p", "22", disk}, "HOST:GUEST"},
		{"accelerator", []string{"--accel", "warp", disk}, "want kvm or tcg"},
		{"architecture", []string{"--arch", "vax", disk}, "want amd64 or arm64"},
		{"BIOS on arm64", []string{"--arch", "arm64", "--bios", disk}, "use UEFI"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.name == "BIOS on arm64" {
				t.Setenv("PATH", fakeQEMU(t))
			}
			err := runArgs(t.Context(), io.Discard, tc.args...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// fakeQEMU returns a folder with programs named like QEMU's.
func fakeQEMU(t *testing.T) string {
	dir := t.TempDir()
	for _, name := range []string{"qemu-system-x86_64", "qemu-system-aarch64"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRunWithoutQEMU(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := runArgs(t.Context(), io.Discard, "--bios", imageFile(t, "disk.img", 1<<16, 0, ""))
	if err == nil || !strings.Contains(err.Error(), "apt-get install qemu-system-x86") {
		t.Errorf("got %v", err)
	}
}

func TestRunMedia(t *testing.T) {
	iso := imageFile(t, "os", 1<<17, 16*2048+1, "CD001")
	qcow2 := imageFile(t, "os", 1<<17, 0, "QFI\xfb")
	raw := imageFile(t, "os", 1<<17, 0, "")
	for _, tc := range []struct {
		name string
		file string
		o    runOptions
		want qemu.Drive
	}{
		{"ISO", iso, runOptions{}, qemu.Drive{Format: "raw", CDROM: true, Snapshot: true}},
		{"ISO as disk", iso, runOptions{disk: true}, qemu.Drive{Format: "raw", Snapshot: true}},
		{"qcow2", qcow2, runOptions{}, qemu.Drive{Format: "qcow2"}},
		{"raw", raw, runOptions{snapshot: true}, qemu.Drive{Format: "raw", Snapshot: true}},
		{"raw as CD", raw, runOptions{cdrom: true}, qemu.Drive{Format: "raw", CDROM: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.o.memory = "1g"
			m, err := tc.o.machine(tc.file)
			if err != nil {
				t.Fatal(err)
			}
			tc.want.Path = tc.file
			if len(m.Drives) != 1 || m.Drives[0] != tc.want {
				t.Errorf("got %+v, want %+v", m.Drives, tc.want)
			}
		})
	}
}

// A boot sector that prints a text shows that the console is the standard output, and that
// the machine ends with its context.
func TestRunBoots(t *testing.T) {
	code := "\x31\xc0\x8e\xd8\xbe\x14\x7c\xac\x84\xc0\x74\xfe\xba\xf8\x03\xee\xeb\xf5\x90\x90" + "it boots\x00"
	disk := imageFile(t, "disk.img", 1<<20, 0, code)
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0x55, 0xaa}, 510); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	out := &watcher{text: "it boots", found: cancel}
	if err := runArgs(ctx, out, "--bios", "--memory", "128m", disk); err != nil {
		t.Error(err)
	}
	if context.Cause(ctx) != context.Canceled || !strings.Contains(out.seen, out.text) {
		t.Errorf("console shows %q", out.seen)
	}
}

// watcher calls found when text has been written.
type watcher struct {
	text, seen string
	found      func()
}

func (w *watcher) Write(b []byte) (int, error) {
	w.seen += string(b)
	if strings.Contains(w.seen, w.text) {
		w.found()
	}
	return len(b), nil
}
