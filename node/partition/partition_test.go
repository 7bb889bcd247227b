package partition

import (
	"errors"
	"os"
	"testing"
)

// What a set was not given is an error that names it, and leaves the set as it was.
func TestNames(t *testing.T) {
	s := Set{Dir: t.TempDir()}
	if err := s.OnDevice("efi", func(*os.File) error { return errors.New("called") }); err == nil ||
		err.Error() != "efi is not mounted" {
		t.Errorf("OnDevice: %v", err)
	}
	if _, err := s.Mount("state", "/dev/does-not-exist", "ext4"); err == nil {
		t.Error("mounted a device that does not exist")
	}
	if err := errors.Join(s.Unmount("state"), s.Close()); err != nil {
		t.Error(err)
	}
}

func TestSync(t *testing.T) {
	if err := Sync(t.TempDir()); err != nil {
		t.Error(err)
	}
	if err := Sync(t.TempDir() + "/missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
}
