package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/image/registry"
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

// answerTimeout bounds one question to a server.
const answerTimeout = 30 * time.Second

// answers says whether an address answers: a URL, or with oci: an image's registry, as an upgrade would ask it.
func answers(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if ref, ok := strings.CutPrefix(address, "oci:"); ok {
		_, _, err := registry.Find(ctx, ref, registry.Options{AuthFiles: authFiles})
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("%s answers %s", address, answer.Status)
	}
	return nil
}
