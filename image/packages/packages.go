// Package packages reads which packages a distribution's image has, from what its package manager keeps.
//
//	dpkg   var/lib/dpkg/status        RFC 822 like paragraphs: Package, Status, Version, Architecture (deb-control(5))
//	apk    lib/apk/db/installed       lines P:name, V:version, paragraphs (apk-tools' apk-package(5))
//	rpm    rpmdb.sqlite, Packages.db, Packages   one of three databases, which package rpm reads
package packages

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/image/packages/rpm"
)

// Packages are versions by name. A package that is installed for several architectures has the name with its
// architecture, as in libc6:arm64, rpm's as in glibc.i686; one in several versions, as rpm's kernels, has them all.
type Packages map[string]string

// A Database is a file in an image that says which packages it has.
type Database struct {
	Path  string // relative to the root
	Parse func([]byte) (Packages, error)
}

// MaxSize bounds a database, in bytes: Debian's of 5,000 packages has 8 MB, rpm's of 2,000 80 MB.
const MaxSize = 128 << 20

// Databases are all that are looked for. Of several in one image the first counts: rpm leaves older formats behind.
func Databases() []Database {
	all := []Database{
		{"var/lib/dpkg/status", ParseDpkg},
		{"usr/lib/apk/db/installed", ParseApk},
		{"lib/apk/db/installed", ParseApk},
	}
	for _, name := range []string{"rpmdb.sqlite", "Packages.db", "Packages"} {
		for _, dir := range []string{"usr/lib/sysimage/rpm", "var/lib/rpm", "usr/share/rpm"} {
			all = append(all, Database{path.Join(dir, name), ParseRPM})
		}
	}
	return all
}

// None says to a person why the packages of an image are not known that has none of [Databases].
const None = "an image has no database of dpkg, apk or rpm"

// ParseDpkg reads dpkg's status file.
func ParseDpkg(b []byte) (Packages, error) {
	return parse(b, ": ", func(field map[string]string) (name, arch, version string) {
		if !strings.HasSuffix(field["Status"], " installed") {
			return "", "", ""
		}
		return field["Package"], field["Architecture"], field["Version"]
	})
}

// ParseApk reads apk's list of what is installed.
func ParseApk(b []byte) (Packages, error) {
	return parse(b, ":", func(field map[string]string) (name, arch, version string) {
		return field["P"], field["A"], field["V"]
	})
}

// ParseRPM reads rpm's database.
func ParseRPM(b []byte) (Packages, error) {
	list, err := rpm.Parse(b)
	if err != nil {
		return nil, err
	}
	// The architecture that most packages have is the system's: they are named without it.
	count, native := map[string]int{}, ""
	for _, p := range list {
		if p.Arch != "" && p.Arch != "noarch" {
			count[p.Arch]++
		}
	}
	for _, arch := range slices.Sorted(maps.Keys(count)) {
		if count[arch] > count[native] {
			native = arch
		}
	}
	versions := map[string][]string{}
	for _, p := range list {
		name := p.Name
		if p.Arch != "" && p.Arch != "noarch" && p.Arch != native {
			name += "." + p.Arch
		}
		versions[name] = append(versions[name], p.Version)
	}
	all := Packages{}
	for name, v := range versions {
		slices.Sort(v)
		all[name] = strings.Join(v, ", ")
	}
	return all, nil
}

// parse reads paragraphs of fields; of tells a package's.
func parse(b []byte, between string, of func(map[string]string) (name, arch, version string)) (Packages, error) {
	all := Packages{}
	first := map[string]string{} // architecture of those without one in their name
	field := map[string]string{}
	end := func() {
		name, arch, version := of(field)
		clear(field)
		if name == "" {
			return
		}
		if other, twice := first[name]; twice && other != arch {
			name += ":" + arch
		} else {
			first[name] = arch
		}
		all[name] = version
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, MaxSize)
	for lines.Scan() {
		line := lines.Text()
		if strings.TrimSpace(line) == "" {
			end()
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			continue // of the field before
		}
		key, value, ok := strings.Cut(line, between)
		if !ok {
			continue // an empty field
		}
		if _, twice := field[key]; !twice { // apk's entries go on with the package's files
			field[key] = strings.TrimSpace(value)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("package database: %w", err)
	}
	end()
	return all, nil
}
