package initramfs

import "sync/atomic"

// end is how /init ends: the machine is handed over, or it has failed. Whatever decides first has decided, so that
// nothing is reported about a machine that boots, and none boots that is reported as failed.
type end struct{ state atomic.Int32 }

const (
	undecided = iota
	handedOver
	failed
)

// handOver says whether the machine may be handed over.
func (e *end) handOver() bool { return e.state.CompareAndSwap(undecided, handedOver) }

// late says whether a machine that takes too long has failed.
func (e *end) late() bool { return e.state.CompareAndSwap(undecided, failed) }

// fail says whether the caller is the first who says that the machine has failed. That may be so after the decision
// to hand it over: the image's init does not start.
func (e *end) fail() bool { return e.state.Swap(failed) != failed }
