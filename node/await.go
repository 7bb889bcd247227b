package node

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/node/health"
)

// What an installation waits for at a machine's start, which it may come before: drivers that udev loads one after the
// other, disks that a driver announces some time after it was loaded, and a network where something is fetched.
const (
	// diskTimeout bounds the wait for disks: USB sticks take seconds, controllers with many disks up to a minute.
	diskTimeout = 90 * time.Second
	// diskQuiet is how long no disk may have come or gone: the largest one need not be the first.
	diskQuiet = 2 * time.Second
	// udevTimeout bounds the wait for udev where no disk is waited for.
	udevTimeout = 30 * time.Second
	// networkTimeout bounds the wait for a network.
	networkTimeout = 2 * time.Minute
	// awaitStep is how often a wait looks again: the kernel and udev show what they have in files.
	awaitStep = 100 * time.Millisecond
)

// await looks at done now and then, until that is so, limit is over or ctx ends. It tells what it waits for.
func await(ctx context.Context, limit time.Duration, what string, progress Progress, done func() bool) error {
	for waited := time.Duration(0); !done() && waited < limit; waited += awaitStep {
		if waited == time.Second { // most waits are over by then
			progress.note(fmt.Sprintf("waiting for %s, at most %v", what, limit))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(awaitStep):
		}
	}
	return nil
}

// udevIsBusy says whether udev has events that it has not handled: the file is what libudev's
// udev_queue_get_queue_is_empty(3) looks at.
func (m *Machine) udevIsBusy() bool {
	_, err := os.Stat(m.path("run/udev/queue"))
	return err == nil
}

// awaitDisk returns the disk that an installation goes to, see chooseDevice. For auto it waits until there is one and
// no other one comes. One that is named is waited for only where nobody has just typed its name.
func (m *Machine) awaitDisk(
	ctx context.Context,
	want string,
	unattended bool,
	progress Progress,
) (d Device, err error) {
	auto := want == "" || want == "auto"
	if !auto && !unattended {
		return m.chooseDevice(want)
	}
	what := "device " + want
	if auto {
		what = "the machine's disks"
	}
	waitErr := await(ctx, diskTimeout, what, progress, m.quiet(auto, func() (string, bool) {
		d, err = m.chooseDevice(want)
		return d.Path, err == nil
	}))
	if waitErr != nil {
		return Device{}, waitErr
	}
	return d, err
}

// quiet returns a condition for await: found says yes and, where all count, udev is done and no disk has come or gone
// for [diskQuiet].
func (m *Machine) quiet(all bool, found func() (string, bool)) func() bool {
	var last string
	var still time.Duration
	return func() bool {
		path, ok := found()
		if !all {
			return ok
		}
		disks, err := m.devices()
		now := fmt.Sprint(path, disks, err)
		if now != last || m.udevIsBusy() {
			last, still = now, 0
			return false
		}
		still += awaitStep
		return ok && still >= diskQuiet
	}
}

// awaitUdev waits until udev has handled what the kernel has announced so far.
func (m *Machine) awaitUdev(ctx context.Context) error {
	return await(ctx, udevTimeout, "", nil, func() bool { return !m.udevIsBusy() })
}

// awaitNetwork waits for a network where one of the images that an installation is to have is in a registry. Without
// one it goes on: whoever needs it says what failed. A stage around the installation that asks a network waits for it
// itself: most of them do not.
func (m *Machine) awaitNetwork(ctx context.Context, images []string, progress Progress) error {
	if !slices.ContainsFunc(images, isRegistrys) {
		return nil
	}
	return await(ctx, networkTimeout, "a network", progress, func() bool { return health.DefaultRoute(m.Root) })
}

func isRegistrys(image string) bool {
	ref, err := source.Parse(image)
	return image != "" && err == nil && ref.Kind == source.Registry
}
