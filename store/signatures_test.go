package store

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// Signatures come and go with their release, and a store without them has no file for them.
func TestSignaturesStayBesideTheirRelease(t *testing.T) {
	s := New(t.TempDir())
	layer := add(t, s, "hello", "world")
	plain, signed := release("plain", layer), release("signed", layer)
	signed.Signatures = []byte("signatures")
	for _, r := range []layout.Release{plain, signed, signed} {
		if err := s.AddRelease(r); err != nil {
			t.Fatal(err)
		}
	}
	path := func(r layout.Release) string { return filepath.Join(s.Dir(), layout.ReleaseSignaturesPath(r.ID())) }
	if _, err := os.Stat(path(plain)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a release without signatures: %v", err)
	}
	read := func() []byte {
		t.Helper()
		r, err := s.Release(signed.ID())
		if err != nil {
			t.Fatal(err)
		}
		return r.Signatures
	}
	if got := read(); !bytes.Equal(got, signed.Signatures) {
		t.Errorf("%q", got)
	}
	if err := os.WriteFile(path(signed), make([]byte, layout.MaxSignaturesSize+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := read(); got != nil {
		t.Errorf("%d bytes of a file that is too large", len(got))
	}
	long := signed
	long.Signatures = make([]byte, layout.MaxSignaturesSize+1)
	if err := s.AddRelease(long); err == nil {
		t.Error("too many bytes are recorded")
	}
	if _, err := s.GC(t.Context(), []string{plain.ID()}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(path(signed))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder of a release that is gone: %v", err)
	}
}
