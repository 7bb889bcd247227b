package node

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/node/health"
)

// ErrLocked says that another run is at work.
var ErrLocked = errors.New("another kairos-apply is at work: wait until it has ended")

// RefusedError says that a command was refused before it changed anything.
type RefusedError struct {
	What string // what is wrong and what to do about it
}

func (e *RefusedError) Error() string { return e.What }

func refuse(format string, args ...any) error {
	return &RefusedError{fmt.Sprintf(format, args...)}
}

// UnhealthyError says that the running system is not healthy.
type UnhealthyError = health.Error

func isNoSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

func isReadOnly(err error) bool { return errors.Is(err, unix.EROFS) }
