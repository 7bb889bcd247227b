package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/kairos-buildkit/kairos/node"
)

func TestExitCodes(t *testing.T) {
	for want, err := range map[int]error{
		exitFailed:    errors.New("disk on fire"),
		exitUsage:     &usageError{errors.New("x")},
		exitNotRoot:   errNotRoot,
		exitLocked:    node.ErrLocked,
		exitNoNode:    node.ErrNotInstalled,
		exitRefused:   &node.RefusedError{What: "x"},
		exitUnhealthy: &node.UnhealthyError{Reason: "x"},
	} {
		if got := exitCode(fmt.Errorf("wrapped: %w", err)); got != want {
			t.Errorf("%v: exit code %d, want %d", err, got, want)
		}
	}
}
