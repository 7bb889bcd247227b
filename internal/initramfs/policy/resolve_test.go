package policy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// A folder is looked up as the running system will: absolute links begin at the image's root, and none leaves it.
func TestResolve(t *testing.T) {
	root := t.TempDir()
	outside := t.TempDir()
	for _, dir := range []string{"var/roothome", "var/home", "usr", "a:b"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"home": "/var/home", "root": "var/roothome", "opt": "/var/opt", "srv": "var/srv/deep",
		"usr/local": "../var/usrlocal",
		"out":       "../../../.." + outside, "abs": outside, "loop": "loop", "colon": "a:b",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/home": "/var/home", "/root": "/var/roothome", "/opt": "/var/opt", "/srv": "/var/srv/deep",
		"/usr/local": "/var/usrlocal", "/usr/local/bin/x": "/var/usrlocal/bin/x",
		"/new/deep/folder": "/new/deep/folder",
	} {
		got, err := resolveOrMake(root, path)
		if err != nil || got != want {
			t.Errorf("%s is %s, %v, want %s", path, got, err, want)
		}
		if again, err := resolve(root, path); err != nil || again != got {
			t.Errorf("%s is %s at the second look, %v", path, again, err)
		}
	}
	for path, want := range map[string]error{"/loop": unix.ELOOP, "/file": unix.ENOTDIR, "/file/x": unix.ENOTDIR} {
		if got, err := resolveOrMake(root, path); !errors.Is(err, want) {
			t.Errorf("%s is %s, %v, want %v", path, got, err, want)
		}
	}
	if got, err := resolve(root, "/colon"); err == nil {
		t.Errorf("a name that overlay would cut at its colon: %s", got)
	}
	// What a link says is meant inside the root, where it can only be made.
	for _, path := range []string{"/out", "/abs"} {
		got, err := resolveOrMake(root, path)
		if err != nil || !strings.HasSuffix(got, outside) {
			t.Errorf("%s is %s, %v", path, got, err)
		}
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("a link led out of the root: %v", entries)
	}
}

func TestPlacesSayWhatIsNotKept(t *testing.T) {
	for _, c := range []struct {
		path   string
		exists bool
	}{{"/none", false}, {"/none/below", false}, {"/dangling", true}, {"/dir", true}} {
		root := t.TempDir()
		os.Mkdir(filepath.Join(root, "dir"), 0o755)
		os.Symlink("/nowhere", filepath.Join(root, "dangling"))
		if got := exists(root, c.path); got != c.exists {
			t.Errorf("%s exists: %v", c.path, got)
		}
	}
}

// What a node's list names must not lead to what belongs to the release, through a link that the image has.
func TestUsableIn(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"usr/bin", "var/home", "real/lib", "var/usrlocal", "srv/data"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"data": "/usr", "all": "/", "later": "usr/share/new", "home": "/var/home", "bin": "usr/bin", "lib": "real/lib",
		"usr/local": "../var/usrlocal", "loop": "loop", "tools": "/data/bin",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	good := []string{"/home/x", "/srv/data", "/new/deep", "/usr/local/x", "/var/lib/x"}
	bad := []string{"/data/x", "/data", "/all", "/all/usr/bin", "/later", "/later/x", "/tools", "/real", "/loop"}
	all := append(append([]string{}, bad...), good...)
	got, errs := usableIn(root, layout.Mounts{Bind: all, Ephemeral: all})
	if d := cmp.Diff(layout.Mounts{Bind: good, Ephemeral: good}, got); d != "" {
		t.Error(d)
	}
	if len(errs) != 2*len(bad) || !strings.Contains(errs[0].Error(), `"/data/x": in the image it leads to /usr/x`) {
		t.Errorf("%d problems, want %d: %v", len(errs), 2*len(bad), errs)
	}
	if _, err := os.Stat(filepath.Join(root, "new")); err == nil {
		t.Error("looking has made a folder")
	}
}
