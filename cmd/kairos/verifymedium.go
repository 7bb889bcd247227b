package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/trust"
)

// verifyMedium reads the releases on a medium, and says of the first that is not as its keys have signed it.
func verifyMedium(ctx context.Context, name string, a trust.Anchor, s streams) error {
	f, err := os.Open(name)
	if err != nil {
		return usageError{err}
	}
	defer f.Close()
	m, err := source.Medium(f)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(m.Problems) > 0 {
		return fmt.Errorf("%s: %s", name, m.Problems[0])
	}
	if len(m.Releases) == 0 {
		return fmt.Errorf("%s: %w", name, errors.New("it has no release"))
	}
	for i := range m.Releases {
		r := &m.Releases[i]
		signed, err := a.Check(r.Release, r.Arch)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", name, r.Place, err)
		}
		if err := m.Verify(ctx, r); err != nil {
			return fmt.Errorf("%s: release %s (%s): %w", name, r.ID(), r.Version, err)
		}
		fmt.Fprintf(s.out, "Release %s (%s) on %s, epoch %d\n", r.ID(), r.Version, r.Place, r.Epoch)
		for _, key := range signed {
			fmt.Fprintf(s.out, "signed by %s key %s\n", key.Algorithm, key.ID)
		}
	}
	if err := m.VerifyESP(ctx); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
