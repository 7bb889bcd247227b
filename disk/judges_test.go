package disk

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/disk/internal/disktest"
)

// pathTable returns the folders of a volume's path table, as isoinfo shows it: number, parent's number, place, name.
func pathTable(out string) (folders []string) {
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 3 || !strings.HasSuffix(f[0], ":") {
			continue
		}
		parent := 0
		fmt.Sscan(f[1], &parent)
		if len(f) == 3 || parent > len(folders) {
			folders = append(folders, "/")
			continue
		}
		folders = append(folders, folders[parent-1]+f[3]+"/")
	}
	return folders
}

// listed returns the folders that isoinfo finds from the root.
func listed(out string) (folders []string) {
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(line, "Directory listing of "); ok {
			folders = append(folders, strings.TrimSuffix(name, "\n"))
		}
	}
	return folders
}

// gptTable is a partition table as other programs read it, in sectors.
type gptTable struct {
	Label      string
	Partitions []gptEntry
}

type gptEntry struct {
	Start, Size      int64
	Type, UUID, Name string
}

func readTable(t *testing.T, img string, sector int64) (table gptTable) {
	t.Helper()
	if sector == 512 {
		var out struct{ PartitionTable *gptTable }
		out.PartitionTable = &table
		if err := json.Unmarshal([]byte(disktest.Tool(t, "sfdisk", "-J", img)), &out); err != nil {
			t.Fatal(err)
		}
		return table
	}
	// sfdisk takes the sectors of the machine's own disk.
	out := disktest.Tool(t, "fdisk", "-b", fmt.Sprint(sector), "-l", "-o", "Start,Sectors,Type-UUID,UUID,Name", img)
	if strings.Contains(out, "Disklabel type: gpt") {
		table.Label = "gpt"
	}
	_, lines, _ := strings.Cut(out, "Name\n")
	for line := range strings.Lines(lines) {
		f := strings.Fields(line)
		if len(f) != 5 {
			t.Fatalf("fdisk: %q", out)
		}
		table.Partitions = append(table.Partitions, gptEntry{number(t, f[0]), number(t, f[1]), f[2], f[3], f[4]})
	}
	return table
}

func number(t *testing.T, s string) (n int64) {
	t.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
