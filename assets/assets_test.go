package assets

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"
)

func TestCompressedFilesReadAsThemselves(t *testing.T) {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("agent"), 1000)
	tree := fstest.MapFS{
		"files/amd64/init":             {Data: []byte("init")},
		"files/amd64/kairos-apply.zst": {Data: e.EncodeAll(want, nil)},
		"files/amd64/grub/core.img":    {Data: []byte("core")},
	}
	got, err := open(tree, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	err = fs.WalkDir(got, ".", func(name string, d fs.DirEntry, err error) error {
		names = append(names, name)
		return err
	})
	if want := []string{".", "grub", "grub/core.img", "init", "kairos-apply"}; err != nil ||
		!slices.Equal(names, want) {
		t.Errorf("names %v, %v; want %v", names, err, want)
	}
	if b, err := fs.ReadFile(got, "kairos-apply"); err != nil || !bytes.Equal(b, want) {
		t.Errorf("kairos-apply: %d bytes, %v; want %d", len(b), err, len(want))
	}
}

// A clean checkout has no assets: what a person reads then has to say what to run.
func TestMissingAssetsSayWhatToRun(t *testing.T) {
	clean := fstest.MapFS{"files/README": {}}
	some := fstest.MapFS{"files/README": {}, "files/amd64/init": {}}
	for name, c := range map[string]struct {
		tree fstest.MapFS
		arch string
		want string
	}{
		"clean checkout":  {clean, "amd64", "make assets"},
		"other arch":      {some, "arm64", "arm64"},
		"not an arch":     {some, "../x", "not the name"},
		"no arch":         {some, "", "not the name"},
		"unknown machine": {some, "s390x", "amd64 and arm64"},
	} {
		if _, err := open(c.tree, c.arch); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

// The node agent says which sources it is built from: scripts/version.
func TestAgentKnowsItsVersion(t *testing.T) {
	files, err := FS(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	b, err := fs.ReadFile(files, "kairos-apply")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "kairos-apply")
	if err := os.WriteFile(program, b, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, "--version").CombinedOutput()
	want := regexp.MustCompile(
		`^kairos-apply version (v\S+|[0-9a-f]{12}(-dirty)?|\S+-g[0-9a-f]{12}(-dirty)?|sources-[0-9a-f]{12})\n$`,
	)
	if err != nil || !want.Match(out) {
		t.Errorf("got %q, %v; want %s: is this a build of before? Run `make assets`", out, err, want)
	}
}
