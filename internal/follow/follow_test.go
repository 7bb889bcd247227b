package follow

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Names are found as the kernel finds them in a root of its own.
func TestLinks(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"usr/lib", "var/home", "var/lib"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "usr/lib/file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"lib": "usr/lib", "home": "/var/home", "out": "../../../usr", "usr/up": "../var/./home/", "round": "round",
		"dangling": "var/none/here", "gone": "none/../usr", "filelink": "lib/file", "var/lib/deep": "../../../lib",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		want    string
		missing int
		err     error
	}{
		"":                  {".", 0, nil},
		"/":                 {".", 0, nil},
		"lib/file":          {"usr/lib/file", 0, nil},
		"/home//x/./y":      {"var/home/x/y", 2, nil},
		"out/lib":           {"usr/lib", 0, nil},
		"usr/up/new":        {"var/home/new", 1, nil},
		"../../lib":         {"usr/lib", 0, nil},
		"dangling":          {"var/none/here", 2, nil},
		"dangling/more":     {"var/none/here/more", 3, nil},
		"var/lib/deep/file": {"usr/lib/file", 0, nil},
		"filelink":          {"usr/lib/file", 0, nil},
		"filelink/":         {"usr/lib/file", 0, nil},
		"round":             {err: ErrLoop},
		"gone":              {err: fs.ErrNotExist},
		"filelink/x":        {err: syscall.ENOTDIR},
	} {
		got, missing, err := Links(os.DirFS(dir), name)
		if got != c.want || missing != c.missing || !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("%q: %q, %d missing, %v; want %q, %d, %v", name, got, missing, err, c.want, c.missing, c.err)
		}
	}
}
