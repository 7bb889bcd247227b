package erofs

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// POSIX ACLs, which GNU tar and star store as text (acl(5), "short text form"), and the
// kernel as an attribute (<linux/posix_acl_xattr.h>): version 2, then for each entry its tag
// (2 bytes), permissions (2) and id (4).
const (
	aclVersion = 2
	aclNoID    = 0xffffffff
)

var aclTags = []struct {
	name    string
	obj, id uint16 // tag without and with an id; 0 where there is none
}{
	{"user", 0x01, 0x02},
	{"group", 0x04, 0x08},
	{"mask", 0x10, 0},
	{"other", 0x20, 0},
}

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// encodeACL returns an ACL in the kernel's form.
func encodeACL(text string) (string, error) {
	var entries []aclEntry
	for _, line := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		line, _, _ = strings.Cut(line, "#") // of effective permissions
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		e, err := parseACLEntry(line)
		if err != nil {
			return "", err
		}
		entries = append(entries, e)
	}
	if len(entries) == 0 {
		return "", nil
	}
	slices.SortFunc(
		entries,
		func(a, b aclEntry) int { return cmp.Or(cmp.Compare(a.tag, b.tag), cmp.Compare(a.id, b.id)) },
	)
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return string(b), nil
}

// parseACLEntry reads "tag:qualifier:permissions", to which star adds ":id".
func parseACLEntry(s string) (e aclEntry, err error) {
	fail := func() (aclEntry, error) {
		return e, fmt.Errorf("ACL entry %q: want tag:id:rwx, with the ids as numbers (tar --numeric-owner)", s)
	}
	f := strings.Split(s, ":")
	if len(f) < 3 || len(f) > 4 || len(f[2]) != 3 {
		return fail()
	}
	for i, c := range []byte("rwx") {
		switch f[2][i] {
		case c:
			e.perm |= 4 >> i
		case '-':
		default:
			return fail()
		}
	}
	for _, t := range aclTags {
		if f[0] != t.name && f[0] != t.name[:1] {
			continue
		}
		if f[1] == "" {
			e.tag, e.id = t.obj, aclNoID
			return e, nil
		}
		id, err := strconv.ParseUint(f[len(f)-1], 10, 32)
		if len(f) == 3 {
			id, err = strconv.ParseUint(f[1], 10, 32)
		}
		if err != nil || t.id == 0 {
			return fail()
		}
		e.tag, e.id = t.id, uint32(id)
		return e, nil
	}
	return fail()
}

// minimalACL is whether an encoded ACL has three entries, which say what a file's mode says.
func minimalACL(acl string) bool { return len(acl) <= 4+3*8 }
