package policy

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree writes files: a name that ends with a slash is a folder, and a text that begins with "->" a link.
func tree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "->"); ok {
			err = os.Symlink(target, path)
		} else if !strings.HasSuffix(name, "/") {
			err = os.WriteFile(path, []byte(text), 0o640)
		} else {
			err = os.MkdirAll(path, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		switch {
		case e.IsDir():
			got[name+"/"] = ""
		case e.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			got[name] = "->" + target
			return err
		default:
			b, err := os.ReadFile(path)
			got[name] = string(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// What an image has in a container engine's folder is copied once for each content, and never takes away what the
// engine has put there.
func TestSeed(t *testing.T) {
	image, upper, work := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "work")
	step := func(release string, want map[string]string) {
		t.Helper()
		if err := seed(image, upper, work, release); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, read(t, upper)); d != "" {
			t.Error(d)
		}
	}
	step("r1", map[string]string{})
	tree(t, image, map[string]string{"k3s/images/a.tar": "one", "k3s/link": "->images", "empty/": ""})
	tree(t, upper, map[string]string{"k3s/server/token": "secret"})
	first := map[string]string{
		"k3s/":             "",
		"k3s/images/":      "",
		"k3s/images/a.tar": "one",
		"k3s/link":         "->images",
		"empty/":           "",
		"k3s/server/":      "",
		"k3s/server/token": "secret",
	}
	step("r1", first)

	// The node takes a file away: it does not come back, also not with another release of the same content.
	if err := os.Remove(filepath.Join(upper, "k3s/images/a.tar")); err != nil {
		t.Fatal(err)
	}
	delete(first, "k3s/images/a.tar")
	step("r1", first)
	step("r2", first)

	// Another content is copied.
	tree(t, image, map[string]string{"k3s/images/a.tar": "two"})
	first["k3s/images/a.tar"] = "two"
	step("r3", first)
	info, err := os.Stat(filepath.Join(upper, "k3s/images/a.tar"))
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// A folder that was the upper layer of an overlay shows the same when it is bound.
func TestSeedOfWhatWasAnOverlay(t *testing.T) {
	image, upper, work := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "work")
	tree(t, image, map[string]string{"changed": "image", "below/changed": "image", "below/same": "image", "kept/": ""})
	tree(t, upper, map[string]string{"changed": "node", "below/changed": "node", "new": "node"})
	tree(t, work, map[string]string{"work/": ""})
	for range 2 {
		if err := seed(image, upper, work, "r1"); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"changed":       "node",
			"below/":        "",
			"below/changed": "node",
			"below/same":    "image",
			"kept/":         "",
			"new":           "node",
		}
		if d := cmp.Diff(want, read(t, upper)); d != "" {
			t.Error(d)
		}
		if isDir(work) {
			t.Error("it is an overlay still")
		}
	}
}

// What a node has changed in a folder that is not persistent any more is set aside, once, and said until it is
// removed.
func TestSetAside(t *testing.T) {
	state := t.TempDir()
	if err := setAside(state); err != nil {
		t.Error(err)
	}
	tree(t, state, map[string]string{"usr-libexec.bind/": "", ".work/usr-libexec.bind/work/": ""})
	if err := setAside(state); err != nil {
		t.Errorf("nothing was changed there: %v", err)
	}
	if d := cmp.Diff(map[string]string{".work/": ""}, read(t, state)); d != "" {
		t.Error(d)
	}
	tree(t, state, map[string]string{"usr-libexec.bind/plugin": "x"})
	for range 2 {
		if err := setAside(state); err == nil ||
			!strings.Contains(err.Error(), "/usr/local/.state/usr-libexec.bind.retired") {
			t.Errorf("%v", err)
		}
	}
	d := cmp.Diff(map[string]string{
		".work/":                          "",
		"usr-libexec.bind.retired/":       "",
		"usr-libexec.bind.retired/plugin": "x",
	}, read(t, state))
	if d != "" {
		t.Error(d)
	}
}
