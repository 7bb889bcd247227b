package disk

import (
	"crypto/sha256"
	"fmt"
)

// derive makes an identifier out of a seed and a name: a UUID of version 8 (RFC 9562), the same
// for the same input.
func derive(seed []byte, name string) (id [16]byte) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%x %s", seed, name))
	copy(id[:], sum[:])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}
