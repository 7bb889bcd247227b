// Package arch holds the test of who may import whom.
package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/kairos-buildkit/kairos/"

// allowed lists, for each folder and what is below it, the folders of ours that it may import:
// DESIGN.md, "Packages and who may import whom". A folder may always import what is below itself.
// A new package needs a line here, and a reason.
var allowed = map[string][]string{
	"layout": {},
	"erofs":  {},
	"verity": {},
	"assets": {},

	"initrd": {"layout"},
	"uki":    {"layout"},
	"disk":   {"layout"},
	"store":  {"layout", "erofs", "verity", "internal/durable"},
	"boot":   {"layout", "initrd", "uki"},

	// These three never import each other. node/units is text: the units that the frontend puts
	// into an image, kept beside the code that they start.
	"frontend":   {"layout", "boot", "assets", "node/units"},
	"exporter":   {"layout", "erofs", "verity", "store", "boot", "disk", "assets", "internal/durable"},
	"node":       {"layout", "erofs", "verity", "store", "boot", "disk", "internal/durable"},
	"node/units": {},

	"source":  {"layout", "exporter"},
	"builder": {"layout", "erofs", "store", "boot", "assets", "frontend", "exporter"},

	"internal/durable": {},
	// The frontend's program is the one place where frontend and exporter meet.
	"internal/mediumstep": {"layout", "exporter", "frontend"},
	"internal/qemu":       {},
	"internal/vmtest":     {"internal/qemu"},
	// The format of a log alone: what a disk holds, it does not know.
	"internal/vmtest/writelog": {},
	"internal/imagevm":         {"erofs", "verity", "initrd", "internal/qemu"},

	"cmd/kairos":          {"layout", "erofs", "verity", "store", "boot", "disk", "assets", "frontend", "exporter", "source", "builder", "internal/durable", "internal/mediumstep", "internal/qemu"},
	"cmd/kairos-frontend": {"frontend", "internal/mediumstep"},
	"cmd/kairos-apply":    {"layout", "store", "node"},
	"cmd/kairos-init":     {"layout", "erofs", "verity", "store", "initrd/kmod"},
	"cmd/kairos-bench":    {"layout", "erofs", "verity", "exporter", "frontend/bootlayer", "internal/imagevm", "internal/vmtest"},
}

// only lists modules that one folder alone may import.
var only = map[string]string{
	"github.com/diskfs/go-diskfs": "disk",
}

// standardOnly are folders that import the standard library and nothing else.
var standardOnly = []string{"layout"}

func TestImports(t *testing.T) {
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
			case rel == "build", rel == "test", rel == "scripts", rel == "internal/warm", d.Name() == "testdata", len(rel) > 1 && strings.HasPrefix(d.Name(), "."):
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
		if owner, _ := rule(folder); owner == "" {
			t.Errorf("%s: no rule for its folder: add one to `allowed`", rel)
			return nil
		}
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			for _, problem := range check(folder, imported) {
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

// check returns what is wrong with one import of a package in a folder.
func check(folder, imported string) (problems []string) {
	owner, rules := rule(folder)
	if owner == "" {
		return []string{"no rule for its folder"}
	}
	if ours, ok := strings.CutPrefix(imported, module); ok {
		allowedHere := slices.ContainsFunc(append([]string{owner}, rules...), func(a string) bool { return within(ours, a) })
		if !allowedHere {
			problems = append(problems, owner+" may import only "+strings.Join(rules, ", "))
		}
	} else if slices.Contains(standardOnly, owner) && strings.Contains(strings.Split(imported, "/")[0], ".") {
		problems = append(problems, owner+" may import only the standard library")
	}
	for m, folder := range only {
		if within(imported, m) && owner != folder {
			problems = append(problems, "only "+folder+" may import it")
		}
	}
	return problems
}

// rule returns the entry of allowed that is nearest to the folder.
func rule(folder string) (owner string, rules []string) {
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
	for _, tc := range []struct {
		folder, imported string
		ok               bool
	}{
		{"layout", "fmt", true},
		{"layout", "golang.org/x/sys/unix", false},
		{"layout", module + "erofs", false},
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
		{"newfolder", "fmt", false},
	} {
		if got := check(tc.folder, tc.imported); (len(got) == 0) != tc.ok {
			t.Errorf("%s imports %s: got %q", tc.folder, tc.imported, got)
		}
	}
}
