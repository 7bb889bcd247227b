// Package packages reads which packages a distribution's image has, from what its package manager keeps as text.
//
//	dpkg   var/lib/dpkg/status        RFC 822 like paragraphs: Package, Status, Version, Architecture (deb-control(5))
//	apk    lib/apk/db/installed       lines P:name, V:version, paragraphs (apk-tools' apk-package(5))
//
// rpm's is a database in one of three formats, and is not read: the libraries that do bring an SQL engine, which would
// make the node agent a quarter larger and read what a stranger has written as root. That it is there is said.
package packages

import (
	"bufio"
	"bytes"
	"fmt"
	"path"
	"strings"
)

// Packages are versions by name. A package that is installed for several architectures has the name with its
// architecture, as in libc6:arm64.
type Packages map[string]string

// A Database is a file in an image that says which packages it has.
type Database struct {
	Path  string // relative to the root
	Parse func([]byte) (Packages, error)
}

// MaxSize bounds a database, in bytes: Debian's of 5,000 packages has 8 MB.
const MaxSize = 64 << 20

// Databases are those that can be read.
func Databases() []Database {
	return []Database{
		{"var/lib/dpkg/status", ParseDpkg},
		{"usr/lib/apk/db/installed", ParseApk},
		{"lib/apk/db/installed", ParseApk},
	}
}

// Unread are paths of databases that are not read: rpm's, as SQLite, its own ndb and Berkeley DB.
func Unread() (paths []string) {
	for _, dir := range []string{"usr/lib/sysimage/rpm", "var/lib/rpm", "usr/share/rpm"} {
		for _, name := range []string{"rpmdb.sqlite", "Packages.db", "Packages"} {
			paths = append(paths, path.Join(dir, name))
		}
	}
	return paths
}

// WhyUnread says to a person why packages are not known that a database of [Unread] has.
const WhyUnread = "rpm database: not read; compare the output of `rpm -qa` in both images"

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
