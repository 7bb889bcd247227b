package initrd

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/initrd/kmod"
	"github.com/kairos-buildkit/kairos/internal/bounded"
)

// maxTable bounds each of depmod's tables, in bytes. Those of distributions have 1 to 3 MB.
const maxTable = 16 << 20

// tables is what depmod(8) wrote about a kernel's modules.
type tables struct {
	path      map[string]string   // modules.dep: module → its file
	deps      map[string][]string // modules.dep: module → modules it needs, the last to load first
	soft      map[string][]string // modules.softdep: module or alias → what to load before it, if it can be
	builtin   map[string]bool     // modules.builtin
	aliases   []kmod.Alias        // modules.alias
	providers map[string][]string // modules.alias, for aliases without wildcards
}

func readTables(modules fs.FS) (*tables, error) {
	t := &tables{
		path: map[string]string{}, deps: map[string][]string{}, soft: map[string][]string{},
		builtin: map[string]bool{}, providers: map[string][]string{},
	}
	lines, err := readLines(modules, "modules.dep")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("the kernel's module folder has no modules.dep: run depmod in the image")
	}
	if err != nil {
		return nil, err
	}
	for _, line := range lines {
		file, deps, ok := strings.Cut(line, ":")
		if strings.HasPrefix(file, "/") {
			continue // a module that somebody keeps elsewhere: not what booting needs
		}
		if !ok || !fs.ValidPath(file) {
			return nil, fmt.Errorf(
				"modules.dep: line %q: want \"FILE: DEPENDENCY...\", relative to the module folder",
				line,
			)
		}
		name := kmod.Name(file)
		t.path[name] = file
		for _, d := range strings.Fields(deps) {
			t.deps[name] = append(t.deps[name], kmod.Name(d))
		}
	}
	// The other tables can be missing: a kernel may have nothing to put in them.
	for file, read := range map[string]func(line string){
		"modules.builtin": func(line string) { t.builtin[kmod.Name(line)] = true },
		"modules.softdep": t.readSoftdep,
		"modules.alias":   t.readAlias,
	} {
		lines, err := readLines(modules, file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, line := range lines {
			read(line)
		}
	}
	return t, nil
}

// unlisted looks for modules that modules.dep does not list among the files, and returns an error
// when one is there: it was put there after depmod ran.
func (t *tables) unlisted(modules fs.FS, names []string) error {
	return fs.WalkDir(modules, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || !strings.Contains(d.Name(), ".ko") || d.IsDir() {
			return nil //nolint:nilerr // what cannot be read is not found
		}
		if name := kmod.Name(file); slices.Contains(names, name) && !t.has(name) {
			return fmt.Errorf(
				"the kernel's modules.dep does not list %s, which is there: "+
					"run depmod in the image after changing its modules",
				file,
			)
		}
		return nil
	})
}

// readSoftdep reads "softdep NAME pre: A B post: C". What comes after is not our concern:
// the running system's modprobe sees to it.
func (t *tables) readSoftdep(line string) {
	f := strings.Fields(line)
	if len(f) < 3 || f[0] != "softdep" {
		return
	}
	pre := false
	for _, word := range f[2:] {
		switch {
		case strings.HasSuffix(word, ":"):
			pre = word == "pre:"
		case pre:
			t.soft[kmod.Name(f[1])] = append(t.soft[kmod.Name(f[1])], word)
		}
	}
}

// readAlias reads "alias PATTERN NAME".
func (t *tables) readAlias(line string) {
	f := strings.Fields(line)
	if len(f) != 3 || f[0] != "alias" {
		return
	}
	a := kmod.Alias{Pattern: f[1], Module: kmod.Name(f[2])}
	t.aliases = append(t.aliases, a)
	if !strings.ContainsAny(a.Pattern, "*?[") {
		t.providers[a.Pattern] = append(t.providers[a.Pattern], a.Module)
	}
}

// has says whether the kernel has the module, as a file or built in.
func (t *tables) has(name string) bool { return t.path[name] != "" || t.builtin[name] }

// closure returns the names that are modules, and all that they need, sorted.
func (t *tables) closure(names []string) []string {
	var all []string
	for _, name := range names {
		if t.path[name] != "" {
			all = append(all, name)
			all = append(all, t.before(name)...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// before returns what to load before a module, in order: dependencies, soft ones included,
// and theirs.
func (t *tables) before(name string) []string {
	var order []string
	seen := map[string]bool{name: true}
	var visit func(name string)
	visit = func(name string) {
		for _, dep := range t.needs(name) {
			if !seen[dep] && t.path[dep] != "" {
				seen[dep] = true
				visit(dep)
				order = append(order, dep)
			}
		}
	}
	visit(name)
	return order
}

// needs returns a module's own dependencies, soft ones first, as modprobe does.
func (t *tables) needs(name string) []string {
	var needs []string
	for _, s := range slices.Concat(before[name], t.soft[name]) {
		if t.has(kmod.Name(s)) {
			needs = append(needs, kmod.Name(s))
		} else {
			needs = append(needs, t.providers[s]...)
		}
	}
	hard := slices.Clone(t.deps[name])
	slices.Reverse(hard)
	return append(needs, hard...)
}

func readLines(fsys fs.FS, name string) ([]string, error) {
	b, err := bounded.ReadFile(fsys, name, maxTable)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	return lines, nil
}
