package tree

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/filemode"
)

// Who is root in these tests is whoever runs them. What another user has made is tried in
// ../accounts, as that user.
func open(t *testing.T, files map[string]string) (*Root, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, dir
}

func TestLinksBeginAtTheRoot(t *testing.T) {
	r, dir := open(t, map[string]string{"var/home/a/x": "1", "etc/real": "2"})
	for from, to := range map[string]string{
		"home": "/var/home", "var/up": "../../../var/home/a", "etc/link": "real", "etc/abs": "/etc/link",
		"loop": "loop",
	} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"/home/a/x":         "1",
		"/var/up/x":         "1",
		"etc/link":          "2",
		"/etc/abs":          "2",
		"/home/../etc/real": "2",
	} {
		if b, err := r.ReadFile(name, 10); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if _, err := r.ReadFile("/loop/x", 10); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a loop: %v", err)
	}
	if _, err := r.ReadFile("/home/a/x", 0); err == nil {
		t.Error("no bound")
	}
}

func TestWriteReplaces(t *testing.T) {
	r, dir := open(t, map[string]string{"etc/other": "old", "etc/hard": "old"})
	if err := os.Symlink("other", filepath.Join(dir, "etc/file")); err != nil {
		t.Fatal(err)
	}
	attr := Attr{Mode: filemode.FromUnix(0o4750), UID: -1, GID: -1}
	for _, name := range []string{"etc/file", "etc/new/deep/file"} {
		if err := r.WriteFile(name, []byte("new"), attr); err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || info.Mode() != fs.ModeSetuid|0o750 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "etc/other")); string(b) != "old" {
		t.Errorf("written through a link: %q", b)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "etc/.kairos*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSpecialFilesAreNotOpened(t *testing.T) {
	r, dir := open(t, map[string]string{"a/x": "1"})
	if err := unix.Mkfifo(filepath.Join(dir, "a/fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadFile("a/fifo", 10); !errors.Is(err, ErrUntrusted) {
		t.Errorf("a FIFO: %v", err)
	}
	// In a directory that others can write to, a second name of a file is refused.
	if err := os.Chmod(filepath.Join(dir, "a"), 0o1777); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a/x"), filepath.Join(dir, "a/y")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadFile("a/y", 10); !errors.Is(err, ErrUntrusted) {
		t.Errorf("a hard link: %v", err)
	}
}

func TestLikeKeepsModeAndAttributes(t *testing.T) {
	r, dir := open(t, map[string]string{"etc/shadow": "old"})
	p := filepath.Join(dir, "etc/shadow")
	if err := os.Chmod(p, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(p, "user.label", []byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	d, err := r.Dir("etc")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f, err := d.Open("shadow")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := d.WriteFile("shadow", []byte("new"), Attr{Like: f}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	n, err := unix.Getxattr(p, "user.label", b)
	if err != nil || string(b[:n]) != "kept" {
		t.Errorf("attribute %q, %v", b[:max(n, 0)], err)
	}
	if info, err := os.Stat(p); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
