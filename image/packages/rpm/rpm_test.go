package rpm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

// update keeps the databases that the test makes, for tests that are to have the same ones each time.
var update = flag.Bool("update", false, "write testdata")

// kept are databases of testdata, by format.
var kept = map[string]string{"ndb": "Packages.db", "SQLite": "rpmdb.sqlite.zst", "Berkeley DB": "Packages.zst"}

func readKept(t testing.TB) map[string][]byte {
	t.Helper()
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	databases := map[string][]byte{}
	for name, file := range kept {
		b, err := os.ReadFile(filepath.Join("testdata", file))
		if err == nil && strings.HasSuffix(file, ".zst") {
			b, err = z.DecodeAll(b, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		databases[name] = b
	}
	return databases
}

func keep(t testing.TB, databases map[string][]byte) {
	t.Helper()
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range kept {
		b := databases[name]
		if strings.HasSuffix(file, ".zst") {
			b = z.EncodeAll(b, nil)
		}
		if err := os.WriteFile(filepath.Join("testdata", file), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// written makes databases with programs that we did not write: rpm has SQLite, Berkeley DB's loader the hash that
// rpm had before. Debian's rpm does not write ndb: that one is put together here, as rpm's source has it.
func written(t testing.TB) (databases map[string][]byte, want []Package) {
	t.Helper()
	dir := t.TempDir()
	run := func(name string, args ...string) []byte {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "HOME="+dir, "LC_ALL=C")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, stderr.Bytes())
		}
		return out
	}
	build := func(name, epoch, version, release, target, description string) {
		t.Helper()
		spec := filepath.Join(dir, "a.spec")
		text := fmt.Sprintf("Name: %s\n%sVersion: %s\nRelease: %s\nSummary: a package\nLicense: none\n"+
			"%%description\n%s\n%%files\n", name, epoch, version, release, description)
		if err := os.WriteFile(spec, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		run("rpmbuild", "--define", "_topdir "+dir, "--target", target, "-bb", spec)
	}
	build("hello", "Epoch: 2\n", "1.2", "3", "x86_64", "x")
	build("hello", "Epoch: 2\n", "1.2", "3", "i686", "x")
	build("kernel", "", "6.1", "1", "x86_64", "x")
	build("kernel", "", "6.12", "1", "x86_64", "x")
	build("long", "", "1", "1", "noarch", strings.Repeat("A line of a text that does not fit into a page.\n", 200))
	db := filepath.Join(dir, "db")
	files, err := filepath.Glob(filepath.Join(dir, "RPMS/*/*.rpm"))
	if err != nil || len(files) != 5 {
		t.Fatalf("%q, %v", files, err)
	}
	run("rpm", "--dbpath", db, "--initdb")
	run("rpm", append([]string{"--dbpath", db, "-i", "--justdb", "--nodeps", "--ignorearch"}, files...)...)
	run("rpm", "--dbpath", db, "-e", "--justdb", "long") // and something that is free
	run("rpm", "--dbpath", db, "-i", "--justdb", "--nodeps", filepath.Join(dir, "RPMS/noarch/long-1-1.noarch.rpm"))
	all := run("rpm", "--dbpath", db, "-qa", "--qf", "%{NAME} %{ARCH} %|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\n")
	for line := range strings.Lines(string(all)) {
		word := strings.Fields(line)
		want = append(want, Package{word[0], word[1], word[2]})
	}
	sqlite, err := os.ReadFile(filepath.Join(db, "rpmdb.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	var headers [][]byte
	err = readSQLite(sqlite, func(header []byte) error {
		headers = append(headers, slices.Clone(header))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	databases = map[string][]byte{"SQLite": sqlite, "ndb": writeNDB(headers)}
	for name, order := range map[string]string{"Berkeley DB": "1234", "Berkeley DB, big-endian": "4321"} {
		dump := "VERSION=3\nformat=bytevalue\ntype=hash\ndb_pagesize=4096\ndb_lorder=" + order + "\nHEADER=END\n" +
			" 00000000\n 00000005\n"
		for i, h := range headers {
			key := binary.LittleEndian.AppendUint32(nil, uint32(i+1))
			dump += " " + hex.EncodeToString(key) + "\n " + hex.EncodeToString(h) + "\n"
		}
		in, out := filepath.Join(dir, "dump"), filepath.Join(dir, "Packages"+order)
		if err := os.WriteFile(in, []byte(dump+"DATA=END\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		run("db5.3_load", "-f", in, out)
		if databases[name], err = os.ReadFile(out); err != nil {
			t.Fatal(err)
		}
	}
	return databases, want
}

func writeNDB(headers [][]byte) []byte {
	const slots = ndbPageSize
	le := binary.LittleEndian.AppendUint32
	b := le(le(le([]byte(ndbMagic), 0), 7), 1)
	b = append(b, make([]byte, ndbHeader-len(b))...)
	blobs := []byte{}
	for i, h := range headers {
		block := uint32((slots + len(blobs)) / ndbBlock)
		blob := append(le(le(le([]byte(ndbBlob), uint32(i+1)), 7), uint32(len(h))), h...)
		blob = append(blob, make([]byte, (ndbBlock-len(blob)%ndbBlock)%ndbBlock)...)
		blobs = append(blobs, blob...)
		b = le(le(le(append(b, ndbSlot...), uint32(i+1)), block), uint32(len(blob)/ndbBlock))
	}
	for len(b) < slots {
		b = append(append(b, ndbSlot...), make([]byte, 12)...)
	}
	return append(b, blobs...)
}

func sorted(all []Package) []Package {
	return slices.SortedFunc(slices.Values(all), func(a, b Package) int {
		return strings.Compare(a.Name+a.Arch+a.Version, b.Name+b.Arch+b.Version)
	})
}

// Each format says what `rpm -qa` says.
func TestParse(t *testing.T) {
	databases, want := written(t)
	if len(want) != 5 {
		t.Fatalf("rpm has %v", want)
	}
	for name, b := range databases {
		got, err := Parse(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if d := cmp.Diff(sorted(want), sorted(got)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	if *update {
		keep(t, databases)
	}
}

// A database that was damaged, or made to do harm, is an error or less; reading it takes no more than its size.
func TestDamaged(t *testing.T) {
	for name, b := range readKept(t) {
		whole, err := Parse(b)
		if err != nil || len(whole) != 5 {
			t.Fatalf("%s: %v, %v", name, whole, err)
		}
		for n := 0; n < len(b); n += 1 + n/4 {
			if all, err := Parse(b[:n]); err == nil && len(all) >= len(whole) {
				t.Errorf("%s: %d of %d bytes have all packages", name, n, len(b))
			}
		}
		for n := 0; n < len(b); n += 1 + len(b)/2000 {
			for _, bits := range []byte{0xff, 0x80, 1} {
				b[n] ^= bits
				if all, err := Parse(b); err == nil && len(all) > len(whole) { // and no panic
					t.Errorf("%s, byte %d: %d packages", name, n, len(all))
				}
				b[n] ^= bits
			}
		}
	}
	// Slots that all point at one large blob.
	header := slices.Repeat([]byte{0}, 1<<20)
	many := writeNDB([][]byte{header})
	for at := ndbHeader; at+ndbBlock <= ndbPageSize; at += ndbBlock {
		copy(many[at:], many[ndbHeader:][:ndbBlock])
	}
	calls := 0
	err := readNDB(many, func([]byte) error { calls++; return nil })
	if err == nil || calls != 1 {
		t.Errorf("a blob was read %d times: %v", calls, err)
	}
	// A circle of overflowing pages.
	p := newPages(make([]byte, 4096), 512)
	if _, err := p.page(3); err != nil {
		t.Fatal(err)
	}
	if _, err := p.page(3); err == nil {
		t.Error("a page was read twice")
	}
}

func FuzzParse(f *testing.F) {
	for _, b := range readKept(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := Parse(b)
		for _, p := range all {
			if p.Name == "" || len(p.Name) > maxText {
				t.Errorf("%+v", p)
			}
		}
		if err != nil && len(all) > 0 {
			t.Errorf("%d packages, and %v", len(all), err)
		}
	})
}
