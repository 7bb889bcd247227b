// Package arch holds the test of who may import whom.
package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

const module = "github.com/kairos-buildkit/kairos/"

// allowed returns, for each folder and what is below it, the folders of ours that it may import: the table in
// DESIGN.md, "Packages and who may import whom". A folder may always import what is below itself. A new package needs
// a row there, and a reason.
func allowed(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "DESIGN.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "| folder | may import |\n| --- | --- |\n")
	if !ok {
		t.Fatal("DESIGN.md has no table of who may import whom")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	rules := map[string][]string{}
	for row := range strings.Lines(table) {
		folder, imports, ok := parseRow(strings.TrimSuffix(row, "\n"))
		if !ok || rules[folder] != nil {
			t.Fatalf("DESIGN.md: not a row of who may import whom, or its folder has two: %s", row)
		}
		rules[folder] = imports
	}
	return rules
}

var tableRow = regexp.MustCompile("^\\| `([a-z0-9/-]+)` \\| (?:–|(`[a-z0-9/-]+`(?:, `[a-z0-9/-]+`)*)) \\|$")

// parseRow reads | `folder` | `folder`, `folder` |, or a dash where it may import none.
func parseRow(row string) (folder string, imports []string, ok bool) {
	m := tableRow.FindStringSubmatch(row)
	if m == nil {
		return "", nil, false
	}
	imports = []string{}
	if m[2] != "" {
		imports = strings.Split(strings.Trim(m[2], "`"), "`, `")
	}
	return m[1], imports, true
}

// only lists modules that one folder, and what is below it, alone may import.
var only = map[string]string{
	"github.com/diskfs/go-diskfs": "disk",
}

// offline are folders that ask no network.
var offline = []string{
	"internal/initramfs", "internal/blockdev", "internal/mount", "internal/efivars", "cmd/kairos-init",
}

// standardOnly are folders that import the standard library and nothing else.
var standardOnly = []string{"api", "layout"}

func TestImports(t *testing.T) {
	allowed := allowed(t)
	root := filepath.Join("..", "..")
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
	checked := 0
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch {
			case rel == "build",
				rel == "test",
				rel == "scripts",
				d.Name() == "testdata",
				len(rel) > 1 && strings.HasPrefix(d.Name(), "."):
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		checked++
		folder := path.Dir(filepath.ToSlash(rel))
		if owner, _ := rule(allowed, folder); owner == "" {
			t.Errorf("%s: no rule for its folder: add a row to DESIGN.md, \"Packages and who may import whom\"", rel)
			return nil
		}
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			for _, problem := range check(allowed, folder, imported) {
				t.Errorf("%s imports %s: %s", rel, imported, problem)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked == 0 {
		t.Fatal("no Go files found")
	}
}

// A row is read as it is meant, and nothing else is a row.
func TestParseRow(t *testing.T) {
	for row, want := range map[string][]string{
		"| `api` | – |":                           {"api"},
		"| `boot` | `layout`, `internal/mount` |": {"boot", "layout", "internal/mount"},
		"| `boot` | layout |":                     nil,
		"| `boot` |  |":                           nil,
		"| `boot` | `layout`":                     nil,
	} {
		folder, imports, ok := parseRow(row)
		if got := append([]string{folder}, imports...); ok != (want != nil) || ok && !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", row, got, ok)
		}
	}
}

// Each package is in DESIGN.md's picture of them, by its path or by that of the folder that it is a part of.
func TestPicture(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "DESIGN.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, picture, ok := strings.Cut(string(text), "## Packages and who may import whom\n\n```\n")
	picture, _, end := strings.Cut(picture, "```\n")
	if !ok || !end {
		t.Fatal("DESIGN.md has no picture of the packages")
	}
	words := strings.FieldsFunc(picture,
		func(r rune) bool { return unicode.IsSpace(r) || r == ',' || r == ';' || r == ':' })
	// These are named together with what they are for.
	whole := []string{"test", "scripts", "config/internal", "disk/internal"}
	for pkg := range strings.Lines(goTool(t, "list", "-tags", "vm", "./...")) {
		folder := strings.TrimPrefix(strings.TrimSpace(pkg), module)
		inside := slices.ContainsFunc(whole,
			func(w string) bool { return within(folder, w) && slices.Contains(words, w) })
		short := "/" + path.Base(folder) // of a row that names the folder above it
		if !slices.Contains(words, folder) && !inside &&
			!(slices.Contains(words, short) && slices.Contains(words, path.Dir(folder))) {
			t.Errorf("DESIGN.md, \"Packages and who may import whom\": %s is not in the picture", folder)
		}
	}
}

// Each folder of the table is there: a package that goes takes its row with it.
func TestRulesAreOfFolders(t *testing.T) {
	for folder, imports := range allowed(t) {
		for _, f := range append(imports, folder) {
			if info, err := os.Stat(filepath.Join("..", "..", f)); err != nil || !info.IsDir() {
				t.Errorf("DESIGN.md, row of %s: there is no folder %s", folder, f)
			}
		}
	}
}

// check returns what is wrong with one import of a package in a folder.
func check(allowed map[string][]string, folder, imported string) (problems []string) {
	owner, rules := rule(allowed, folder)
	if owner == "" {
		return []string{"no rule for its folder"}
	}
	if ours, ok := strings.CutPrefix(imported, module); ok {
		allowedHere := slices.ContainsFunc(
			append([]string{owner}, rules...),
			func(a string) bool { return within(ours, a) },
		)
		if !allowedHere {
			problems = append(problems, owner+" may import only "+strings.Join(rules, ", "))
		}
	} else if slices.Contains(standardOnly, owner) && strings.Contains(strings.Split(imported, "/")[0], ".") {
		problems = append(problems, owner+" may import only the standard library")
	}
	if first, _, _ := strings.Cut(imported, "/"); first == "net" && slices.Contains(offline, owner) {
		problems = append(problems, owner+" asks no network")
	}
	for m, only := range only {
		if within(imported, m) && !within(folder, only) {
			problems = append(problems, "only "+only+" may import it")
		}
	}
	return problems
}

// rule returns the entry of allowed that is nearest to the folder.
func rule(allowed map[string][]string, folder string) (owner string, rules []string) {
	for f := folder; f != "."; f = path.Dir(f) {
		if r, ok := allowed[f]; ok {
			return f, r
		}
	}
	return "", nil
}

func within(p, folder string) bool { return p == folder || strings.HasPrefix(p, folder+"/") }

// The rules catch what they are for.
func TestCheck(t *testing.T) {
	allowed := allowed(t)
	for _, tc := range []struct {
		folder, imported string
		ok               bool
	}{
		{"layout", "fmt", true},
		{"layout", "golang.org/x/sys/unix", false},
		{"layout", module + "erofs", false},
		{"api", module + "node", false},
		{"api", "github.com/spf13/cobra", false},
		{"erofs", module + "layout", false},
		{"erofs", module + "erofs/internal/x", true},
		{"store", module + "erofs", true},
		{"frontend", module + "exporter", false},
		{"frontend/bootlayer", module + "node", false},
		{"exporter", module + "node", false},
		{"node", module + "frontend", false},
		{"disk", "github.com/diskfs/go-diskfs/filesystem/ext4", true},
		{"node", "github.com/diskfs/go-diskfs", false},
		{"builder", module + "cmd/kairos", false},
		{"internal/initramfs/medium", "net/http", false},
		{"internal/initramfs/medium", module + "store", false},
		{"newfolder", "fmt", false},
	} {
		if got := check(allowed, tc.folder, tc.imported); (len(got) == 0) != tc.ok {
			t.Errorf("%s imports %s: got %q", tc.folder, tc.imported, got)
		}
	}
}
