package node

import (
	"errors"
	"io/fs"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// wantedHealth says when the running release is healthy: as its image's labels have it, and over them the node's
// config. A label that is wrong makes it unhealthy: a check that its author wants must not be passed by.
func wantedHealth(root string, boot layout.Boot) (layout.Health, error) {
	m := &Machine{Boot: boot, Root: root}
	r, err := store.New(m.bootedStore()).Release(boot.Release)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return layout.Health{}, err
	}
	h, err := layout.ParseHealth(r.Labels)
	if err != nil {
		return h, &UnhealthyError{Reason: err.Error()}
	}
	return NodeConfig(root, boot).Health(h), nil
}
