package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"testing"
)

// maxAPI is how many lines `go doc -short` lists of a package at most: a screen.
const maxAPI = 50

// What a package exports fits on a screen. A package that exports more has its reason in DESIGN.md, and one that does
// not has none there.
func TestPublicAPI(t *testing.T) {
	root := filepath.Join("..", "..")
	reasons := packageReasons(t, root, "| package | why it exports more than a screen |")
	lines := map[string]int{}
	err := goFiles(root, func(rel string) error {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, rel), nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			lines[path.Dir(rel)] += listed(d)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) < 30 {
		t.Fatalf("only %d packages found", len(lines))
	}
	for pkg, n := range lines {
		if n > maxAPI && !reasons[pkg] {
			t.Errorf("%s exports %d things, which `go doc -short` lists on as many lines: export what others use, "+
				"at most %d, or give DESIGN.md the reason why not", pkg, n, maxAPI)
		}
	}
	for pkg := range reasons {
		if lines[pkg] <= maxAPI {
			t.Errorf("%s exports %d things: it needs no reason in DESIGN.md any more", pkg, lines[pkg])
		}
	}
}

// listed returns the number of lines that `go doc -short` lists of a declaration: one for each function and type, and
// for each group of constants or variables.
func listed(d ast.Decl) (n int) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil && d.Name.IsExported() {
			n++
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() {
					n++
				}
			case *ast.ValueSpec:
				for _, name := range s.Names {
					if name.IsExported() {
						return 1
					}
				}
			}
		}
	}
	return n
}

func TestListed(t *testing.T) {
	for text, want := range map[string]int{
		"func F() {}": 1, "func f() {}": 0, "func (T) F() {}": 0, "type T int": 1, "type (\nT int\nt int\nU int\n)": 2,
		"const (\nA = 1\nB = 2\n)": 1, "const (\na = 1\nB = 2\n)": 1, "var a int": 0,
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "a.go", "package a\n"+text, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := listed(file.Decls[0]); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
}
