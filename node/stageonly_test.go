package node

import (
	"errors"
	"strings"
	"testing"
)

// A release that is staged is there, and nothing that boots has changed; the upgrade to it then fetches nothing.
func TestUpgradeStageOnly(t *testing.T) {
	a, b, _ := threeImages(t)
	disk, cache := t.TempDir(), t.TempDir()
	m := install(t, disk, "uefi", cache, a)
	before, err := bootable(disk, "uefi")
	if err != nil {
		t.Fatal(err)
	}
	var refused *RefusedError
	_, err = m.Upgrade(t.Context(), UpgradeOptions{Source: b.source(), StageOnly: true, Release: a.id})
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "was to be "+a.id) {
		t.Errorf("an image that is not the release: %v", err)
	}
	r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source(), StageOnly: true, Release: b.id})
	if err != nil {
		t.Fatal(err)
	}
	after, err := bootable(disk, "uefi")
	if err != nil {
		t.Fatal(err)
	}
	if r.Release != b.id || r.Changed || len(after) != len(before) || after[0] != before[0] || RestartWanted(m.Root) {
		t.Errorf("staged %+v; boots %v, was %v", r, after, before)
	}
	if !m.complete(m.State, b.id) {
		t.Error("the release is not complete in the store")
	}
	if r, err = m.Upgrade(t.Context(), UpgradeOptions{Source: b.source(), Release: b.id}); err != nil || !r.Changed {
		t.Errorf("%+v, %v", r, err)
	}
	if after, err = bootable(disk, "uefi"); err != nil || after[0].ID != b.id {
		t.Errorf("boots %v, %v", after, err)
	}
}
