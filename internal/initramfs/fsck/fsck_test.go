package fsck

import (
	"bytes"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// program is the e2fsck of this machine.
func program(args ...string) (int, string, error) {
	out, err := exec.Command("/sbin/e2fsck", args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), string(out), nil
	}
	return 0, string(out), err
}

const label = "COS_PERSISTENT"

// newDisk is a file system of a size with a file in it.
func newDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	content, path := filepath.Join(dir, "content"), filepath.Join(dir, "disk")
	if err := os.MkdirAll(content, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(content, "kept"), []byte("what the node knows\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("/sbin/mke2fs", "-q", "-t", "ext4", "-b", "4096", "-O", "^resize_inode", "-L", label,
		"-d", content, path, size).
		CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func damage(t *testing.T, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func kept(t *testing.T, path string) {
	t.Helper()
	out, err := exec.Command("/sbin/debugfs", "-R", "cat /kept", path).Output()
	if err != nil || string(out) != "what the node knows\n" {
		t.Errorf("the file has %q, %v", out, err)
	}
	if out, err := exec.Command("/sbin/e2fsck", "-f", "-n", path).CombinedOutput(); err != nil {
		t.Errorf("not clean: %v: %s", err, out)
	}
}

// Four zeroed kilobytes at the start are restored from a copy.
func TestFirstSuperblockIsGone(t *testing.T) {
	disk := newDisk(t, "160M")
	damage(t, disk, 0, make([]byte, 4096))
	r, err := Mend(disk, label, false, program)
	if err != nil || !r.Checked || !r.Repaired {
		t.Fatalf("%+v, %v", r, err)
	}
	kept(t, disk)
	if r, err := Mend(disk, label, false, program); err != nil || r.Checked {
		t.Errorf("a sound one is checked again: %+v, %v", r, err)
	}
}

// The copy was written while the file system was mounted, as after it grew: it says that the journal is to be
// replayed.
func TestCopyOfAMountedFileSystem(t *testing.T) {
	disk := newDisk(t, "160M")
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, ok := super(f, 32768*4096, 1, label)
	if !ok {
		t.Fatal("no copy")
	}
	b[0x60] |= 0x4 // needs_recovery
	le.PutUint32(b[superChecksum:], ^crc32.Checksum(b[:superChecksum], crc32.MakeTable(crc32.Castagnoli)))
	damage(t, disk, 32768*4096, b)
	damage(t, disk, 0, make([]byte, 4096))
	var asked [][]string
	r, err := Mend(disk, label, false, func(args ...string) (int, string, error) {
		asked = append(asked, args)
		return program(args...)
	})
	if err != nil || !r.Repaired {
		t.Fatalf("%+v, %v", r, err)
	}
	if last := asked[len(asked)-1]; len(asked) < 2 || slices.Contains(last, "-b") {
		t.Errorf("e2fsck was run with %q", asked)
	}
	kept(t, disk)
}

// What the kernel has noted is checked, and what is unsure is corrected where nobody can be asked.
func TestFlagged(t *testing.T) {
	for name, request := range map[string]string{
		"preen is enough": "set_super_value state 2",
		"an inode": "set_super_value state 2\nset_inode_field lost+found links_count 77\n" +
			"set_inode_field kept block[0] 0",
	} {
		disk := newDisk(t, "64M")
		script := filepath.Join(t.TempDir(), "script")
		if err := os.WriteFile(script, []byte(request+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("/sbin/debugfs", "-w", "-f", script, disk).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if r, err := Mend(disk, label, false, program); err != nil || !r.Checked {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if out, err := exec.Command("/sbin/e2fsck", "-f", "-n", disk).CombinedOutput(); err != nil {
			t.Errorf("%s: not clean: %v: %s", name, err, out)
		}
	}
}

// Where no superblock of ours is left, or another file system is, nothing is changed.
func TestNothingOfOurs(t *testing.T) {
	disk := newDisk(t, "160M")
	noise := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	other := newDisk(t, "160M")
	for path, want := range map[string]string{disk: "COS_PERSISTENT", other: "other"} {
		if path == disk {
			damage(t, disk, 0, noise)
			damage(t, disk, 128<<20, noise) // the only copy
		}
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Mend(path, want, true, func(args ...string) (int, string, error) {
			t.Errorf("e2fsck is run with %v", args)
			return 0, "", nil
		})
		if !errors.Is(err, ErrNone) || r.Checked {
			t.Errorf("%+v, %v", r, err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
			t.Error("it was changed", err)
		}
	}
}

func TestWhatE2fsckSays(t *testing.T) {
	disk := newDisk(t, "64M")
	var asked []string
	answer := func(status ...int) Program {
		asked = nil
		return func(args ...string) (int, string, error) {
			asked = append(asked, args[1])
			n := status[0]
			status = status[1:]
			return n, "pass 1\nthe last line\n", nil
		}
	}
	for _, c := range []struct {
		status   []int
		asked    string
		repaired bool
		err      string
	}{
		{[]int{0}, "-p", false, ""}, {[]int{1}, "-p", false, ""}, {[]int{4, 1}, "-p -y", true, ""},
		{[]int{8, 8}, "-p -y", true, "e2fsck ended with status 8: the last line"},
	} {
		r, err := Mend(disk, label, true, answer(c.status...))
		if strings.Join(asked, " ") != c.asked || r.Repaired != c.repaired ||
			(err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
			t.Errorf("%v: asked %v, %+v, %v", c.status, asked, r, err)
		}
	}
	_, err := Mend(disk, label, true, InImage(t.TempDir()))
	if !errors.Is(err, ErrNoProgram) {
		t.Errorf("without a program: %v", err)
	}
}

func TestCopies(t *testing.T) {
	if got := copyGroups(); got[0] != 1 || got[1] != 3 || got[4] != 9 || got[5] != 25 || got[11] != 343 {
		t.Errorf("%v", got)
	}
}
