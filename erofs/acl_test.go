package erofs

import (
	"archive/tar"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sampleACL = "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff" +
	"\x02\x00\x06\x00\xe8\x03\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff" +
	"\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"

func TestAttributesHoweverTheyAreSaid(t *testing.T) {
	for name, c := range map[string]struct{ records, want map[string]string }{
		"GNU tar, ACL": {
			map[string]string{"SCHILY.acl.access": "user::rwx\nuser:1000:rw-\ngroup::r-x\nmask::rwx\nother::---\n"},
			map[string]string{"system.posix_acl_access": sampleACL},
		},
		"star, ACL, another order": {
			map[string]string{"SCHILY.acl.default": "other::---,mask::rwx,group::r-x,user:joe:rw-:1000,user::rwx"},
			map[string]string{"system.posix_acl_default": sampleACL},
		},
		"an ACL that is the mode": {map[string]string{"SCHILY.acl.access": "user::rwx,group::r-x,other::r-x"},
			map[string]string{}},
		"SELinux": {map[string]string{"RHT.security.selinux": "u:r:t"},
			map[string]string{"security.selinux": "u:r:t\x00"}},
		"bsdtar": {
			map[string]string{"LIBARCHIVE.xattr.user.a%3Db": "AAH/"}, map[string]string{"user.a=b": "\x00\x01\xff"},
		},
		"as it is wins": {
			map[string]string{"LIBARCHIVE.xattr.user.a": "AAH/", "SCHILY.xattr.user.a": "x"},
			map[string]string{"user.a": "x"},
		},
		"not Linux's": {map[string]string{
			"SCHILY.xattr.com.apple.quarantine": "x",
			"SCHILY.xattr.user":                 "x",
			"SCHILY.xattr.system.nfs4_acl":      "x",
		}, map[string]string{}},
	} {
		attrs, err := tarXattrs(&tar.Header{PAXRecords: c.records})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		encoded, err := encodeXattrs(attrs)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		decoded, err := decodeXattrs([]byte(encoded))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got := map[string]string{}
		for k, v := range decoded {
			got[k] = string(v)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: -want +got\n%s", name, d)
		}
	}
	for _, acl := range []string{
		"user:joe:rwx", "user::rw", "user::rwz", "mask:1:rwx", "x::rwx", "user:1:rwx:a", "user",
	} {
		if _, err := tarXattrs(&tar.Header{PAXRecords: map[string]string{"SCHILY.acl.access": acl}}); err == nil ||
			!strings.Contains(err.Error(), "ACL entry") {
			t.Errorf("%q: error %v", acl, err)
		}
	}
}
