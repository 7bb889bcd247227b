package blockdev

import (
	"testing"
	"unsafe"
)

// Only a drive for CDs gives its medium away.
func TestOnlyDrivesEject(t *testing.T) {
	for device, want := range map[string]bool{
		"/dev/sr0": true, "/dev/sr12": true,
		"/dev/sda": false, "/dev/sr": false, "/dev/sr0p1": false, "/dev/srv/sr0": false, "sr0": false,
		"/dev/nvme0n1": false, "/dev/../dev/sr0": false, "": false,
	} {
		if got := IsDrive(device); got != want {
			t.Errorf("%s: %v, want %v", device, got, want)
		}
		if !want {
			if err := Eject(device); err == nil {
				t.Errorf("%s: ejected", device)
			}
		}
	}
}

// The kernel reads the header by its offsets: those of scsi/sg.h on 64 bits.
func TestHeaderOfSCSICommands(t *testing.T) {
	var h sgHeader
	for name, c := range map[string][2]uintptr{
		"cmdp": {unsafe.Offsetof(h.command), 24}, "sbp": {unsafe.Offsetof(h.sense), 32},
		"timeout": {unsafe.Offsetof(h.timeout), 40}, "status": {unsafe.Offsetof(h.status), 64},
		"host_status": {unsafe.Offsetof(h.hostStatus), 68}, "size": {unsafe.Sizeof(h), 88},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %d, want %d", name, c[0], c[1])
		}
	}
}
