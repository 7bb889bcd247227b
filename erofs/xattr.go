package erofs

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// xattrPrefixes are the name prefixes that the format has numbers for. The kernel does
// not show attributes with any other.
var xattrPrefixes = []struct {
	index byte
	name  string
	whole bool // the name is the prefix
}{
	{1, "user.", false},
	{2, "system.posix_acl_access", true},
	{3, "system.posix_acl_default", true},
	{4, "trusted.", false},
	{6, "security.", false},
}

const (
	xattrHeaderSize = 12
	xattrEntrySize  = 4
)

type xattr struct {
	index byte
	name  string // after the prefix
	value string
}

// parseXattr splits a name into prefix and rest. It is not ok where Linux has no such
// attribute.
func parseXattr(name, value string) (x xattr, ok bool) {
	for _, p := range xattrPrefixes {
		rest, found := strings.CutPrefix(name, p.name)
		if found && p.whole == (rest == "") {
			return xattr{p.index, rest, value}, true
		}
	}
	return xattr{}, false
}

// encodeXattrs returns the bytes that follow an inode which has these attributes: a
// header, then entries of 4 + name + value bytes, each padded to 4.
func encodeXattrs(attrs []xattr) (string, error) {
	if len(attrs) == 0 {
		return "", nil
	}
	slices.SortFunc(attrs, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.name, b.name))
	})
	b := make([]byte, xattrHeaderSize)
	for _, x := range attrs {
		if len(x.name) > 255 || len(x.value) > 0xffff {
			return "", fmt.Errorf(
				"extended attribute %q with %d bytes: want at most 255 bytes of name, 65535 of value",
				x.name,
				len(x.value),
			)
		}
		b = append(b, byte(len(x.name)), x.index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(x.value)))
		b = append(b, x.name...)
		b = append(b, x.value...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	if xattrCount(len(b)) > 0xffff {
		return "", fmt.Errorf("extended attributes of %d bytes: want at most 256 KiB", len(b))
	}
	return string(b), nil
}

// withXattr returns encoded attributes with one set.
func withXattr(encoded string, set xattr) (string, error) {
	values, err := decodeXattrs([]byte(encoded))
	if err != nil {
		return "", err
	}
	attrs := []xattr{set}
	for name, value := range values {
		if x, ok := parseXattr(name, string(value)); ok && (x.index != set.index || x.name != set.name) {
			attrs = append(attrs, x)
		}
	}
	return encodeXattrs(attrs)
}

// xattrCount is an inode's i_xattr_icount for attributes of size bytes, header included.
func xattrCount(size int) int {
	if size == 0 {
		return 0
	}
	return (size-xattrHeaderSize)/4 + 1
}

// xattrSize is the inverse of xattrCount.
func xattrSize(count uint16) int {
	if count == 0 {
		return 0
	}
	return xattrHeaderSize + (int(count)-1)*4
}

// decodeXattrs reads what encodeXattrs made.
func decodeXattrs(b []byte) (map[string][]byte, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) < xattrHeaderSize {
		return nil, fmt.Errorf("extended attributes: %d bytes: %w", len(b), ErrCorrupt)
	}
	if b[4] != 0 {
		return nil, fmt.Errorf("extended attributes: shared ones: %w", ErrUnsupported)
	}
	attrs := map[string][]byte{}
	for b = b[xattrHeaderSize:]; len(b) >= xattrEntrySize; {
		nameLen, index := int(b[0]), b[1]
		valueLen := int(binary.LittleEndian.Uint16(b[2:]))
		size := xattrEntrySize + nameLen + valueLen
		if size > len(b) {
			return nil, fmt.Errorf("extended attributes: entry of %d bytes in %d: %w", size, len(b), ErrCorrupt)
		}
		for _, p := range xattrPrefixes {
			if p.index == index {
				name := p.name + string(b[xattrEntrySize:xattrEntrySize+nameLen])
				attrs[name] = b[xattrEntrySize+nameLen : size : size]
			}
		}
		b = b[min(len(b), int(roundUp(int64(size), 4))):]
	}
	return attrs, nil
}
