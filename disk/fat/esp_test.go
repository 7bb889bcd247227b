package fat_test

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/layout"
)

type readOnly struct{ *os.File }

func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// A boot entry lies in one sector, so that no power cut tears one that comes or goes: on the ESP of a new
// disk, and whatever comes and goes then.
func TestBootEntryIsInOneSector(t *testing.T) {
	img := newESP(t)
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := fat.Open(readOnly{f})
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	check := func() {
		t.Helper()
		err := fat.EachName(d, layout.UKIDir, func(name string, first, last int64) {
			if _, err := layout.ParseEntry(name); err != nil {
				return
			}
			seen++
			if first/512 != last/512 {
				t.Errorf("%s: from byte %d to %d of its sector", name, first%512, last%512)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	check()
	uki := filepath.Join(t.TempDir(), "uki")
	if err := os.WriteFile(uki, []byte("uki"), 0o644); err != nil {
		t.Fatal(err)
	}
	const id = "bbbbbbbbbbbb"
	random := rand.New(rand.NewPCG(1, 1))
	var there []string
	for seq := range uint32(60) {
		e := layout.Entry{Seq: seq + 2, ID: id}
		if seq%2 == 0 {
			e.Counted, e.Left = true, layout.Tries
		}
		there = append(there, "::"+layout.UKIDir+"/"+e.String())
		tool(t, "mcopy", "-i", img, uki, there[len(there)-1])
		if seq%3 > 0 {
			i := random.IntN(len(there))
			tool(t, "mdel", "-i", img, there[i])
			there = slices.Delete(there, i, i+1)
		}
		check()
	}
	if seen < 500 {
		t.Errorf("only %d entries were seen", seen)
	}
}

// newESP is the ESP of a disk as it is installed.
func newESP(t *testing.T) string {
	t.Helper()
	d, err := disk.System{
		Release: layout.Release{
			Config: layout.Digest("sha256:" + strings.Repeat("0", 64)),
			Arch:   "amd64",
		}, UKI: []byte("uki"), SystemdBoot: []byte("loader"),
		Time: time.Unix(1_800_000_000, 0), Seed: []byte("test"), Sizes: map[string]int64{"efi": 32 << 20},
	}.Disk()
	if err != nil {
		t.Fatal(err)
	}
	files := d.Partitions[slices.IndexFunc(d.Partitions, func(p disk.Partition) bool { return p.Name == "efi" })].Files
	m, err := fat.FileSystem{Label: "ESP", Size: 32 << 20, Time: time.Unix(1_800_000_000, 0), Files: files}.Image()
	if err != nil {
		t.Fatal(err)
	}
	img := filepath.Join(t.TempDir(), "esp")
	f, err := os.Create(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := m.WriteTo(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	return img
}
