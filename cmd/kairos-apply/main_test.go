package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/node"
)

func TestExitCodes(t *testing.T) {
	for want, err := range map[api.ExitCode]error{
		api.ExitFailed:    errors.New("disk on fire"),
		api.ExitUsage:     &usageError{errors.New("x")},
		api.ExitNotRoot:   errNotRoot,
		api.ExitLocked:    node.ErrLocked,
		api.ExitNoNode:    node.ErrNotInstalled,
		api.ExitRefused:   &node.RefusedError{What: "x"},
		api.ExitUnhealthy: &node.UnhealthyError{Reason: "x"},
		api.ExitDamaged:   &node.DamagedError{What: "x"},
	} {
		if got := exitCode(fmt.Errorf("wrapped: %w", err)); got != want {
			t.Errorf("%v: exit code %d, want %d", err, got, want)
		}
	}
}
