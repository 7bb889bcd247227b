package blockdev

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUsers(t *testing.T) {
	sys, proc := t.TempDir(), t.TempDir()
	put := func(root, name, text string) {
		t.Helper()
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i, part := range []string{"sda1", "sda2", "sda3", "sda4", "sda5"} {
		n := string(rune('1' + i))
		put(sys, "sda/"+part+"/partition", n+"\n")
		put(sys, part+"/dev", "8:"+n+"\n")
	}
	put(sys, "sda/dev", "8:0\n")
	put(sys, "sda2/holders/dm-0", "")
	put(sys, "dm-0/dm/name", "my--group-root\n")
	put(sys, "dm-0/dm/uuid", "LVM-abc\n")
	put(sys, "dm-0/dev", "253:0\n")
	put(sys, "sda3/holders/md127", "")
	put(sys, "sda5/holders/dm-1", "")
	put(sys, "dm-1/dm/name", "secret\n")
	put(sys, "dm-1/dm/uuid", "CRYPT-LUKS2-abc\n")
	put(
		proc,
		"self/mountinfo",
		"20 1 8:1 / /data\\040disk rw - ext4 /dev/sda1 rw\n21 1 253:0 / /srv rw - ext4 /dev/dm-0 rw\n22 1 8:99 / "+
			"/other rw - ext4 x rw\n",
	)
	put(proc, "swaps", "Filename Type Size Used Priority\n/dev/sda4 partition 1 0 -2\n")
	want := []string{
		"/dev/sda5 is opened as secret: cryptsetup close secret",
		"/dev/sda3 belongs to the RAID /dev/md127: mdadm --stop /dev/md127",
		"/dev/sda2 belongs to the LVM volume group my-group: vgchange -an my-group",
		"/dev/sda1 is mounted on /data disk: umount /data disk",
		"/dev/sda4 is swap: swapoff /dev/sda4",
		"/dev/dm-0 is mounted on /srv: umount /srv",
	}
	if d := cmp.Diff(want, texts(users(sys, proc, "/dev/sda"))); d != "" {
		t.Error(d)
	}
	put(sys, "sdb/holders/dm-2", "")
	put(sys, "dm-2/dm/name", "mpatha\n")
	put(sys, "dm-2/dm/uuid", "mpath-3600\n")
	if got := strings.Join(texts(users(sys, proc, "/dev/sdb")), "\n"); !strings.Contains(got, "multipath -f mpatha") {
		t.Error(got)
	}
	if got := users(sys, proc, "/dev/sdc"); len(got) > 0 {
		t.Error(got)
	}
}

func texts(all []User) (out []string) {
	for _, u := range all {
		out = append(out, u.String())
	}
	return out
}
