package fat

import (
	"encoding/binary"
	"errors"
	"io"
)

// ReadOnly is a volume that is not written to.
func ReadOnly(r io.ReaderAt) Disk { return readOnly{r} }

type readOnly struct{ io.ReaderAt }

func (readOnly) WriteAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }

// InISO returns where the volume is that UEFI starts an ISO of a size in bytes from, and how long it may be: the
// partition of type 0xEF in its boot record (UEFI specification 2.10, section 5.2.1), which is the image that its
// El Torito catalog names. It is not ok where there is none.
func InISO(r io.ReaderAt, size int64) (begin, length int64, ok bool) {
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, 0); err != nil || b[510] != 0x55 || b[511] != 0xaa {
		return 0, 0, false
	}
	for e := b[446:510]; len(e) > 0; e = e[16:] {
		begin = int64(binary.LittleEndian.Uint32(e[8:])) * 512
		length = int64(binary.LittleEndian.Uint32(e[12:])) * 512
		if e[4] == 0xef && begin > 0 && length > 0 && begin+length <= size {
			return begin, length, true
		}
	}
	return 0, 0, false
}
