package node

import (
	"context"
	"path/filepath"

	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/fetch"
	"github.com/kairos-buildkit/kairos/store"
)

// roomToFetch makes sure that an image's missing layers fit where they are fetched to, before the first byte is. Only
// if they do not, what an interrupted run has left there goes, which this one could have gone on with.
func (m *Machine) roomToFetch(
	ctx context.Context,
	e *fetch.Engine,
	s *store.Store,
	o UpgradeOptions,
	img *source.Image,
) error {
	if m.Cache == "" || o.Containerd != "" || o.Source.Kind != source.Registry {
		return nil // nothing is fetched, or somebody else keeps it
	}
	need, err := toFetch(s, img)
	if err != nil || need == 0 {
		return err
	}
	dir := filepath.Join(m.Cache, cacheDir)
	have, err := m.freeBytes(dir)
	if err != nil || have >= need+reserve {
		return err
	}
	if err := e.Forget(ctx); err != nil {
		return err
	}
	if have, err = m.freeBytes(dir); err != nil || have >= need+reserve {
		return err
	}
	where := "PERSISTENT"
	if m.Boot.Persistent == layout.PersistentInMemory {
		where = "the memory that stands for PERSISTENT"
	}
	return refuse("%s has %s free, and fetching the image's new layers takes %s: make room there "+
		"(`du -x -h -d 2 %s` shows what is large), or upgrade from a medium or an archive",
		where, mib(have), mib(need+reserve), layout.MountPersistent)
}

// toFetch is the bytes of an image's layers that a store lacks.
func toFetch(s *store.Store, img *source.Image) (n int64, err error) {
	for _, l := range img.Layers {
		if _, ok, err := s.Layer(l.DiffID); err != nil {
			return 0, err
		} else if !ok {
			n += l.Stored
		}
	}
	return n, nil
}
