package blockdev

import (
	"encoding/binary"
	"testing"

	"github.com/kairos-buildkit/kairos/disk/luks"
)

// The kernel is told where the volume is, in sectors of 512 bytes, and has the key by its name alone.
func TestCryptTable(t *testing.T) {
	c := Crypt{Device: "/dev/vda6", Key: make([]byte, 64), Mapping: luks.Mapping{
		Cipher: "aes-xts-plain64", Offset: 16 << 20, Size: 64 << 20, SectorSize: 512,
	}}
	const plain = "aes-xts-plain64 :64:logon:kairos:x 0 /dev/vda6 32768"
	if got := c.params("kairos:x"); got != plain {
		t.Error(got)
	}
	c.SectorSize, c.Discards, c.Tweak = 4096, true, 8
	want := "aes-xts-plain64 :64:logon:kairos:x 8 /dev/vda6 32768 2 allow_discards sector_size:4096"
	if got := c.params("kairos:x"); got != want {
		t.Error(got)
	}
	b := c.target("kairos:x")
	if n := binary.NativeEndian.Uint64(b[8:]); n != 131072 || len(b)%8 != 0 || b[len(b)-1] != 0 ||
		string(b[24:30]) != "crypt\x00" || string(b[40:40+len(want)]) != want {
		t.Errorf("%d sectors, %q", n, b)
	}
}
