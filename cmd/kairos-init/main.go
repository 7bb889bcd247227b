// Command kairos-init is /init of the initrd: it finds the medium that the machine was booted from, mounts the
// release's layers through dm-verity, and hands over to the image's init.
package main

import (
	"os"

	"github.com/kairos-buildkit/kairos/internal/initramfs"
	"github.com/kairos-buildkit/kairos/internal/initramfs/guard"
)

func main() {
	if os.Args[0] == guard.Name {
		guard.Run(os.Args[1:])
		return
	}
	type m = initramfs.Machine
	initramfs.Main( // in this order
		(*m).Prepare,
		(*m).FindMedium,
		(*m).MeasureRole,
		(*m).ReadRelease,
		(*m).CheckTrust,
		(*m).Announce,
		(*m).MountRoot,
		(*m).CheckMedium,
		(*m).Unlock,
		(*m).MakeWritable,
		(*m).SetDeadline,
		(*m).CheckAlone,
		(*m).LeaveRecord,
		(*m).StartGuard,
		(*m).MeasureRelease,
		(*m).HandOver,
	)
}
