package efi

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func node(kind, sub byte, data ...byte) []byte {
	return append([]byte{kind, sub, byte(4 + len(data)), 0}, data...)
}

func option(nodes ...[]byte) []byte {
	var path []byte
	for _, n := range nodes {
		path = append(path, n...)
	}
	b := binary.LittleEndian.AppendUint16([]byte{1, 0, 0, 0}, uint16(len(path)))
	return append(append(b, 'U', 0, 'E', 0, 0, 0), path...)
}

func TestBootOption(t *testing.T) {
	acpi := node(2, 1, 0xd0, 0x41, 0x03, 0x0a, 0, 0, 0, 0)
	done := node(0x7f, 0xff)
	hd := node(4, 1, make([]byte, 38)...)
	for name, c := range map[string]struct {
		b    []byte
		want Path
		ok   bool
	}{
		"virtio": {option(acpi, node(1, 1, 0, 3), done), Path{PCI: []string{"03.0"}}, true},
		"SATA": {option(acpi, node(1, 1, 2, 0x1f), node(3, 18, 3, 0, 0xff, 0xff, 0, 0), hd, done),
			Path{PCI: []string{"1f.2"}, Port: "sata 3"}, true},
		"SCSI": {option(acpi, node(1, 1, 0, 1), node(1, 1, 0, 0), node(3, 2, 1, 0, 2, 0), done),
			Path{PCI: []string{"01.0", "00.0"}, Port: "scsi 1 2"}, true},
		"NVMe": {option(acpi, node(1, 1, 0, 4), node(3, 23, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), done),
			Path{PCI: []string{"04.0"}, Port: "nvme 1"}, true},
		"USB": {option(acpi, node(1, 1, 0, 4), node(3, 5, 1, 0), done),
			Path{PCI: []string{"04.0"}, Port: "?"}, true},
		"a partition":  {option(hd, done), Path{}, false},
		"none":         {nil, Path{}, false},
		"truncated":    {option(acpi, node(1, 1, 0, 3), done)[:12], Path{}, false},
		"wrong length": {option([]byte{1, 1, 2, 0}), Path{}, false},
	} {
		got, ok := parseBootOption(c.b)
		if d := cmp.Diff(c.want, got); ok != c.ok || ok && d != "" {
			t.Errorf("%s: %v %s", name, ok, d)
		}
	}
}

func FuzzBootOption(f *testing.F) {
	f.Add(
		option(
			node(2, 1, 0xd0, 0x41, 3, 10, 0, 0, 0, 0),
			node(1, 1, 2, 0x1f),
			node(3, 18, 3, 0, 0, 0, 0, 0),
			node(0x7f, 0xff),
		),
	)
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := parseBootOption(b); ok && len(p.PCI) == 0 {
			t.Errorf("%+v", p)
		}
	})
}
