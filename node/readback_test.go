package node

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/layout"
)

// A disk that keeps something else than it was given does not cost the recovery system that was there.
func TestRecoveryIsReadBack(t *testing.T) {
	a, b, _ := threeImages(t)
	disk, cache := t.TempDir(), t.TempDir()
	install(t, disk, layout.FirmwareUEFI, cache, a)
	good := fakeMachine(t, disk, layout.FirmwareUEFI, a.id, cache, nil)
	bad := &durable.FS{}
	m := fakeMachine(t, disk, layout.FirmwareUEFI, a.id, cache, bad)
	record := filepath.Join(disk, recoveryDir, layout.ReleasePath(b.id))
	bad.Before = func(s durable.Step) error {
		if s.To != record {
			return nil
		}
		// All layers have their names: one that a has not is hit.
		l, err := good.Recovery.Releases()
		if err != nil || len(l) != 1 {
			t.Errorf("releases %v, %v", l, err)
		}
		rot(t, good.Recovery.BlobPath(layout.Digest(digest.FromBytes(b.layers[1]))))
		return nil
	}
	o := UpgradeOptions{Source: b.source(), Recovery: true}
	_, err := m.Upgrade(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "does not give back") {
		t.Errorf("an upgrade on a bad disk: %v", err)
	}
	check := func(what, want string) {
		t.Helper()
		order, err := bootable(disk, layout.FirmwareUEFI)
		if err != nil || order[len(order)-1].Seq != layout.RecoverySeq || order[len(order)-1].ID != want {
			t.Errorf("%s: boots %v, %v", what, order, err)
		}
		if l, err := good.Recovery.Releases(); err != nil || len(l) != 1 || l[0].ID != want {
			t.Errorf("%s: RECOVERY has %v, %v", what, l, err)
		}
		noLeftovers(t, disk)
	}
	check("a bad disk", a.id)
	if r, err := good.Upgrade(t.Context(), o); err != nil || !r.Changed {
		t.Errorf("the same command again: %+v, %v", r, err)
	}
	check("again", b.id)
}
