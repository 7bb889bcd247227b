package gpt

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The table is written by sgdisk, read and grown by us, and judged by sgdisk.
func TestGrownTable(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk")
	run := func(program string, args ...string) string {
		t.Helper()
		out, err := exec.Command(program, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v (package gdisk): %v\n%s", program, args, err, out)
		}
		return string(out)
	}
	truncate := func(size int64) {
		t.Helper()
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	truncate(64 << 20)
	run(
		"sgdisk",
		"-n",
		"1:2048:+8M",
		"-c",
		"1:efi",
		"-u",
		"1:11111111-2222-3333-4444-55555555555F",
		"-n",
		"2:0:+16M",
		"-c",
		"2:persistent",
		name,
	)

	load := func() *Table {
		t.Helper()
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, _ := f.Stat()
		g, err := Read(f, info.Size(), 512)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	g := load()
	if !g.Has("11111111-2222-3333-4444-55555555555f") || g.Has("11111111-2222-3333-4444-555555555550") {
		t.Errorf("%+v", g.Partitions)
	}
	if _, changed := g.Grow("efi"); changed {
		t.Error("a partition grew that is not the last")
	}

	truncate(1 << 30)
	g = load()
	p, changed := g.Grow("persistent")
	if !changed || p.Number != 2 || p.Last != (1<<30)/512-2048-1 {
		t.Errorf("%+v %v", p, changed)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := g.Write(f); err != nil {
		t.Fatal(err)
	}
	if out := run("sgdisk", "-v", name); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v:\n%s", out)
	}
	again := load()
	if d := cmp.Diff(g.Partitions, again.Partitions); d != "" {
		t.Error(d)
	}
	if _, changed := again.Grow("persistent"); changed {
		t.Error("it grows a second time")
	}
	// The copy serves when the first table is damaged.
	if _, err := f.WriteAt(make([]byte, 512), 512); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(g.Partitions, load().Partitions); d != "" {
		t.Error(d)
	}
}

func TestBrokenTables(t *testing.T) {
	for _, size := range []int{0, 512, 68 * 512, 1 << 20} {
		if _, err := Read(bytes.NewReader(make([]byte, size)), int64(size), 512); err == nil {
			t.Errorf("%d zero bytes accepted", size)
		}
	}
}

func FuzzGPT(f *testing.F) {
	f.Add(make([]byte, 68*512))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := Read(bytes.NewReader(b), int64(len(b)), 512)
		if err != nil {
			return
		}
		g.Grow("persistent")
		d := newMemory(b)
		if err := g.Write(d); err != nil {
			return
		}
		// What was written is the table, and sound.
		again, err := Read(bytes.NewReader(d.now), int64(len(b)), 512)
		if err != nil || again.Damage != Sound {
			t.Fatalf("after writing it: %v %v", again, err)
		}
		if d := cmp.Diff(g.Partitions, again.Partitions); d != "" {
			t.Fatal(d)
		}
	})
}
