package packages

import (
	"archive/tar"
	"bytes"
	"errors"
	"maps"
	"os"
	"testing"
	"testing/fstest"
)

const dpkgStatus = `Package: libc6
Status: install ok installed
Priority: optional
Architecture: amd64
Multi-Arch: same
Version: 2.41-12
Description: GNU C Library
 Version: of a line that goes on
 .

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1

Package: libc6
Status: hold ok installed
Architecture: arm64
Version: 2.41-11
Conffiles:
 /etc/x 0123

Package: tzdata
Status: install ok installed
Architecture: all
Version: 2026a-1
`

const apkInstalled = "C:Q1abc=\nP:musl\nV:1.2.5-r9\nA:x86_64\nF:lib\nR:ld-musl-x86_64.so.1\n\n" +
	"C:Q1def=\nP:busybox\nV:1.37.0-r12\nA:x86_64\n"

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		parse func([]byte) (Packages, error)
		text  string
		want  Packages
	}{
		"dpkg":  {ParseDpkg, dpkgStatus, Packages{"libc6": "2.41-12", "libc6:arm64": "2.41-11", "tzdata": "2026a-1"}},
		"apk":   {ParseApk, apkInstalled, Packages{"musl": "1.2.5-r9", "busybox": "1.37.0-r12"}},
		"empty": {ParseDpkg, "", Packages{}},
	} {
		got, err := c.parse([]byte(c.text))
		if err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// rpm's database is found in each of its places: with another one in a layer below it still counts.
func TestRPMIsFound(t *testing.T) {
	db, err := os.ReadFile("rpm/testdata/Packages.db")
	if err != nil {
		t.Fatal(err)
	}
	want := Packages{"hello": "2:1.2-3", "kernel": "6.1-1, 6.12-1", "hello.i686": "2:1.2-3", "long": "1-1"}
	for _, name := range []string{
		"usr/lib/sysimage/rpm/rpmdb.sqlite", // Fedora
		"var/lib/rpm/rpmdb.sqlite",          // Enterprise Linux 9 and 10
		"usr/lib/sysimage/rpm/Packages.db",  // SUSE
		"var/lib/rpm/Packages",              // Enterprise Linux 8
	} {
		for _, inTar := range []bool{false, true} {
			var s Search
			if inTar {
				var b bytes.Buffer
				w := tar.NewWriter(&b)
				h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(db))}
				if err := w.WriteHeader(h); err != nil {
					t.Fatal(err)
				}
				if _, err := w.Write(db); err != nil {
					t.Fatal(err)
				}
				err = errors.Join(w.Close(), s.Tar(&b))
			} else {
				err = s.Layer(fstest.MapFS{name: {Data: db, Mode: 0o644}})
			}
			if err != nil {
				t.Fatal(err)
			}
			if all, err := s.Packages(); !maps.Equal(all, want) || err != nil {
				t.Errorf("%s, in a tar: %v: %v, %v", name, inTar, all, err)
			}
		}
	}
}

// What a stranger wrote is read without a panic, and no package is without a name.
func FuzzParse(f *testing.F) {
	f.Add([]byte(dpkgStatus))
	f.Add([]byte(apkInstalled))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) (Packages, error){ParseDpkg, ParseApk} {
			all, err := parse(b)
			if _, nameless := all[""]; nameless || err == nil && all == nil {
				t.Errorf("%v, %v", all, err)
			}
		}
	})
}
