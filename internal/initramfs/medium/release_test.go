package medium

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

func TestReadRelease(t *testing.T) {
	digest := layout.Digest("sha256:" + strings.Repeat("0123456789abcdef", 4))
	r := layout.Release{
		Version: "v1",
		Config:  digest,
		Arch:    "amd64",
		Layers:  []layout.Layer{{DiffID: digest, Size: 4096, RootHash: digest.Hex()}},
	}
	text, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	store := t.TempDir()
	put := func(id string, b []byte) {
		name := filepath.Join(store, layout.ReleasePath(id))
		os.MkdirAll(filepath.Dir(name), 0o755)
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func(id string) error {
		s := Source{Device: "/dev/sr0", Store: store, Boot: layout.Boot{Release: id}}
		_, err := s.Release()
		return err
	}
	want := func(err error, text string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %q", err, text)
		}
	}
	want(read(""), "list releases")
	put(r.ID(), text)
	if err := read(""); err != nil {
		t.Error(err)
	}
	if err := read(r.ID()); err != nil {
		t.Error(err)
	}
	want(read("../../../etc"), "not an id")
	want(read("ffffffffffff"), "read release ffffffffffff from /dev/sr0")
	put("ffffffffffff", text)
	want(read(""), "/dev/sr0 has 2 releases")
	want(read("ffffffffffff"), "is named "+r.ID()+" in its own file")
	put(r.ID(), text[:len(text)/2])
	want(read(r.ID()), "release")
}
