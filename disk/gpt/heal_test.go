package gpt

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// memory is a disk that knows what is durable.
type memory struct {
	now, durable []byte
	pending      []int64 // sectors
	sector       int64
	cut          func(*memory) // called before and after each fsync
}

func newMemory(b []byte) *memory {
	return &memory{now: bytes.Clone(b), durable: bytes.Clone(b), sector: 512}
}

func (m *memory) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(m.now).ReadAt(b, off)
}

func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	n := copy(m.now[off:], b)
	for at := off / m.sector; at*m.sector < off+int64(len(b)); at++ {
		m.pending = append(m.pending, at)
	}
	return n, nil
}

func (m *memory) Sync() error {
	if m.cut != nil {
		m.cut(m)
	}
	copy(m.durable, m.now)
	m.pending = nil
	if m.cut != nil {
		m.cut(m)
	}
	return nil
}

// disk makes a disk with a table as an installation has it.
func disk(t *testing.T, size, sectorSize int64) ([]byte, *Table) {
	t.Helper()
	parts := []Partition{
		{
			Number: 1,
			GUID:   "11111111-2222-3333-4444-555555555555",
			Type:   "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
			Name:   "efi",
			First:  1 << 20 / sectorSize,
			Last:   2<<20/sectorSize - 1,
		},
		{
			Number: 2,
			GUID:   "21111111-2222-3333-4444-555555555555",
			Type:   "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
			Name:   "persistent",
			First:  2 << 20 / sectorSize,
			Last:   3<<20/sectorSize - 1,
		},
	}
	g, err := New("31111111-2222-3333-4444-555555555555", size/sectorSize, sectorSize, parts)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	b[446+4], b[446+8], b[510], b[511] = 0xee, 1, 0x55, 0xaa
	chunks, err := g.Chunks()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chunks {
		copy(b[c.At:], c.Data)
	}
	return b, g
}

// Whatever is damaged of one copy is healed by the other, and a power cut at any moment of that leaves a
// table that can be read, and healed again.
func TestHeal(t *testing.T) {
	for _, sector := range []int64{512, 4096} {
		sound, g := disk(t, 4<<20, sector)
		if err := g.Write(newMemory(sound)); err != nil {
			t.Fatal(err)
		}
		entries := 2 * sector
		end := int64(len(sound)) - sector
		for name, c := range map[string]struct {
			at, size int64
			want     Damage
		}{
			"primary header":      {sector + 70, 1, PrimaryDamaged},
			"primary header gone": {sector, sector, PrimaryDamaged},
			"primary entries":     {entries + 40, 3, PrimaryDamaged},
			"all at the start":    {sector, 33 * 512, PrimaryDamaged},
			"header's copy":       {end + 20, 1, BackupDamaged}, "entries' copy": {end - 32*512 + 1, 1, BackupDamaged},
			"all at the end": {end - 32*512, sector + 32*512, BackupDamaged},
		} {
			t.Run(fmt.Sprint(sector, name), func(t *testing.T) {
				b := bytes.Clone(sound)
				for i := range c.size {
					b[c.at+i] ^= 0xa5
				}
				got, err := Read(bytes.NewReader(b), int64(len(b)), sector)
				if err != nil || got.Damage != c.want {
					t.Fatalf("%v, %v", got, err)
				}
				m := newMemory(b)
				m.sector = sector
				m.cut = everyCut(t, g.Partitions)
				if err := got.Write(m); err != nil {
					t.Fatal(err)
				}
				// The protective record spans the disk now, which disk leaves out.
				if again, err := Read(bytes.NewReader(m.durable), int64(len(b)), sector); err != nil ||
					again.Damage != Sound ||
					!bytes.Equal(m.durable[512:], sound[512:]) {
					t.Errorf("not as it was: %+v %v", again, err)
				}
				m.cut = func(*memory) { t.Error("a sound table is written") }
				if err := got.Write(m); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// everyCut reads the disks that a power cut may leave: each sector that is not durable is there or not.
func everyCut(t *testing.T, want ...[]Partition) func(*memory) {
	random := rand.New(rand.NewPCG(1, 2))
	return func(m *memory) {
		for range 5 {
			b := bytes.Clone(m.durable)
			for _, s := range m.pending {
				if random.IntN(2) == 0 {
					copy(b[s*m.sector:][:m.sector], m.now[s*m.sector:])
				}
			}
			got, err := Read(bytes.NewReader(b), int64(len(b)), m.sector)
			if err != nil {
				t.Fatalf("a power cut leaves no table: %v", err)
			}
			if !func() bool {
				for _, w := range want {
					if cmp.Equal(w, got.Partitions) {
						return true
					}
				}
				return false
			}() {
				t.Fatalf("a power cut leaves %+v", got.Partitions)
			}
			healed := newMemory(b)
			healed.sector = m.sector
			if err := got.Write(healed); err != nil {
				t.Fatal(err)
			}
			if again, err := Read(bytes.NewReader(healed.durable), int64(len(b)), m.sector); err != nil ||
				again.Damage != Sound {
				t.Fatalf("healed: %+v %v", again, err)
			}
		}
	}
}

// A table that grows is the old one or the new one at any moment.
func TestGrowIsSafe(t *testing.T) {
	for _, sector := range []int64{512, 4096} {
		b, small := disk(t, 4<<20, sector)
		b = append(b, make([]byte, 12<<20)...)
		g, err := Read(bytes.NewReader(b), int64(len(b)), sector)
		if err != nil || g.Damage != Sound {
			t.Fatalf("%v %v", g, err)
		}
		if _, changed := g.Grow("persistent"); !changed {
			t.Fatal("it does not grow")
		}
		m := newMemory(b)
		m.sector = sector
		m.cut = everyCut(t, small.Partitions, g.Partitions)
		if err := g.Write(m); err != nil {
			t.Fatal(err)
		}
		if len(m.pending) > 0 {
			t.Error("not all is fsynced")
		}
		again, err := Read(bytes.NewReader(m.durable), int64(len(b)), sector)
		if err != nil || again.Damage != Sound {
			t.Fatalf("%v %v", again, err)
		}
		if d := cmp.Diff(g.Partitions, again.Partitions); d != "" {
			t.Error(d)
		}
	}
}

// A sector that cannot be read is damage like any other.
func TestUnreadablePrimary(t *testing.T) {
	b, g := disk(t, 4<<20, 512)
	got, err := Read(badSector{bytes.NewReader(b)}, int64(len(b)), 512)
	if err != nil || got.Damage != PrimaryDamaged {
		t.Fatalf("%v %v", got, err)
	}
	if d := cmp.Diff(g.Partitions, got.Partitions); d != "" {
		t.Error(d)
	}
}

type badSector struct{ *bytes.Reader }

func (r badSector) ReadAt(b []byte, off int64) (int, error) {
	if off < 1024 && off+int64(len(b)) > 512 {
		return 0, fmt.Errorf("input/output error")
	}
	return r.Reader.ReadAt(b, off)
}

// A header whose copy would be written over a partition is not believed.
func TestTableThatLies(t *testing.T) {
	b, _ := disk(t, 4<<20, 512)
	le.PutUint64(b[512+headerAlternate:], 5000)
	le.PutUint32(b[512+16:], 0)
	le.PutUint32(b[512+16:], crc32.ChecksumIEEE(b[512:][:92]))
	if g, err := Read(bytes.NewReader(b), int64(len(b)), 512); err == nil {
		t.Errorf("accepted: %+v", g)
	}
}
