// Package kmod reads and writes the index of the kernel modules in an initrd. The
// initrd's maker writes it, /init reads it, so the two agree by construction. It is
// kept apart from package initrd so that /init does not carry decompressors.
//
// The index is text, one fact a line:
//
//	module <name> <dependency>...   what to load before it, in load order, complete
//	alias <pattern> <name>          hardware or feature that the module drives
//
// Names are as the kernel has them in /proc/modules: with underscores. Patterns are those of
// depmod's modules.alias (shell globs that match a device's modalias).
package kmod

import (
	"fmt"
	"strings"
)

// Places in the initrd.
const (
	// Dir holds the modules, uncompressed.
	Dir = "lib/modules"
	// IndexPath is the index of them.
	IndexPath = Dir + "/index"
)

// Path returns the place of a module in the initrd.
func Path(name string) string { return Dir + "/" + name + ".ko" }

// Index lists modules. The order of its parts is kept.
type Index struct {
	Modules []Module
	Aliases []Alias
}

// Module is one kernel module.
type Module struct {
	Name string
	// Deps are all modules to load before this one, the first to load first.
	Deps []string
}

// Alias says that a module drives whatever matches the pattern.
type Alias struct {
	Pattern, Module string
}

// Name returns a module's name for a file name or for a name that a person typed:
// "kernel/fs/erofs/erofs.ko.xz" is erofs, "dm-verity" is dm_verity.
func Name(s string) string {
	s = s[strings.LastIndexByte(s, '/')+1:]
	if i := strings.Index(s, ".ko"); i >= 0 {
		s = s[:i]
	}
	return strings.ReplaceAll(s, "-", "_")
}

// Marshal returns the index's text.
func (x Index) Marshal() []byte {
	var b strings.Builder
	for _, m := range x.Modules {
		b.WriteString("module ")
		b.WriteString(strings.Join(append([]string{m.Name}, m.Deps...), " "))
		b.WriteByte('\n')
	}
	for _, a := range x.Aliases {
		b.WriteString("alias " + a.Pattern + " " + a.Module + "\n")
	}
	return []byte(b.String())
}

// Parse reads an index.
func Parse(text []byte) (Index, error) {
	var x Index
	for n, line := range strings.Split(string(text), "\n") {
		switch f := strings.Fields(line); {
		case len(f) == 0:
		case f[0] == "module" && len(f) >= 2:
			m := Module{Name: f[1]}
			if len(f) > 2 {
				m.Deps = f[2:]
			}
			x.Modules = append(x.Modules, m)
		case f[0] == "alias" && len(f) == 3:
			x.Aliases = append(x.Aliases, Alias{Pattern: f[1], Module: f[2]})
		default:
			return Index{}, fmt.Errorf(
				"module index: line %d: %q: want \"module NAME DEPENDENCY...\" or \"alias PATTERN NAME\"",
				n+1,
				line,
			)
		}
	}
	return x, nil
}

// Match returns the modules whose aliases match a modalias, each once.
func (x Index) Match(modalias string) []string {
	var names []string
	for _, a := range x.Aliases {
		if Glob(a.Pattern, modalias) && !contains(names, a.Module) {
			names = append(names, a.Module)
		}
	}
	return names
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// Glob matches as fnmatch(3) does without flags: '*' any string, '?' any byte, '[a-c]' a
// byte of the set, '\' the byte after it. It takes time linear in the text for each star of the pattern.
func Glob(pattern, s string) bool {
	p, i := 0, 0
	star, mark := -1, 0
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, i
			p++
			continue
		}
		if n, ok := matchOne(pattern[p:], s[i]); ok {
			p += n
			i++
			continue
		}
		if star < 0 {
			return false
		}
		// Let the last star take one byte more.
		mark++
		p, i = star+1, mark
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchOne matches c with the pattern's first element, and returns that element's length.
func matchOne(pattern string, c byte) (int, bool) {
	if pattern == "" {
		return 0, false
	}
	switch pattern[0] {
	case '?':
		return 1, true
	case '[':
		if end := strings.IndexByte(pattern, ']'); end > 1 {
			return end + 1, inSet(pattern[1:end], c)
		}
	case '\\':
		// A backslash that quotes nothing matches nothing, as with fnmatch.
		return 2, len(pattern) > 1 && pattern[1] == c
	}
	return 1, pattern[0] == c
}

func inSet(set string, c byte) bool {
	negated := set[0] == '!' || set[0] == '^'
	if negated {
		set = set[1:]
	}
	in := false
	for i := 0; i < len(set); i++ {
		if i+2 < len(set) && set[i+1] == '-' {
			in = in || set[i] <= c && c <= set[i+2]
			i += 2
		} else {
			in = in || set[i] == c
		}
	}
	return in != negated
}
