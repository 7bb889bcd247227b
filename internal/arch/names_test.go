package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
)

// Package layout owns the names that two packages have to agree on: paths, labels, words of the command
// line. No other package's code spells one of them; texts for people may.
func TestNamesAreLayouts(t *testing.T) {
	root := filepath.Join("..", "..")
	names := layoutNames(t, filepath.Join(root, "layout"))
	if len(names) < 40 {
		t.Fatalf("only %d names found in package layout", len(names))
	}
	checked := 0
	err := goFiles(root, func(rel string) error {
		if strings.HasPrefix(rel, "layout/") {
			return nil
		}
		checked++
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, filepath.Join(root, rel), nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if _, ok := n.(*ast.ImportSpec); ok {
				return false
			}
			l, ok := n.(*ast.BasicLit)
			if !ok || l.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(l.Value)
			if err != nil {
				return true
			}
			if name, ok := spells(names, text); ok {
				t.Errorf("%s:%d: %s is layout.%s", rel, set.Position(l.Pos()).Line, l.Value, name)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked == 0 {
		t.Fatal("no Go files found")
	}
}

// isName matches paths, labels and words of a command line: not ordinary words, not texts.
var isName = regexp.MustCompile(`^[^ \n]*[a-zA-Z][^ \n]*[/._][^ \n]*$|^[^ \n]*[/._][^ \n]*[a-zA-Z][^ \n]*$`)

// spells returns the constant of package layout that a literal spells: as it is, from the root, or as
// the beginning of a path.
func spells(names map[string]string, text string) (string, bool) {
	for {
		if name, ok := names[text]; ok {
			return name, true
		}
		if name, ok := names[strings.TrimPrefix(text, "/")]; ok {
			return name, true
		}
		i := strings.LastIndexByte(text, '/')
		if i < 0 {
			return "", false
		}
		text = text[:i]
	}
}

// layoutNames returns the exported string constants that are names and no ordinary words; paths of more
// than one part without the slash that they may begin with.
func layoutNames(t *testing.T, dir string) map[string]string {
	t.Helper()
	set := token.NewFileSet()
	values := map[string]string{} // all, also unexported ones: others are made of them
	exprs := map[string]ast.Expr{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, filepath.Join(dir, e.Name()), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, s := range g.Specs {
				v := s.(*ast.ValueSpec)
				for i, n := range v.Names {
					if i < len(v.Values) {
						exprs[n.Name] = v.Values[i]
					}
				}
			}
		}
	}
	var eval func(e ast.Expr) (string, bool)
	eval = func(e ast.Expr) (string, bool) {
		switch e := e.(type) {
		case *ast.BasicLit:
			if e.Kind != token.STRING {
				return "", false
			}
			v, err := strconv.Unquote(e.Value)
			return v, err == nil
		case *ast.Ident:
			x, ok := exprs[e.Name]
			if !ok {
				return "", false
			}
			return eval(x)
		case *ast.BinaryExpr:
			a, okA := eval(e.X)
			b, okB := eval(e.Y)
			return a + b, okA && okB && e.Op == token.ADD
		}
		return "", false
	}
	for name, e := range exprs {
		if v, ok := eval(e); ok && ast.IsExported(name) && isName.MatchString(v) {
			if short := strings.TrimPrefix(v, "/"); strings.Contains(short, "/") {
				v = short
			}
			values[v] = name
		}
	}
	return values
}

// goFiles calls do for each Go file of the project's own that is no test.
func goFiles(root string, do func(rel string) error) error {
	var files []string
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel == "build" || rel == "test" || d.Name() == "testdata" ||
				len(rel) > 1 && strings.HasPrefix(d.Name(), ".") {
				return fs.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			files = append(files, filepath.ToSlash(rel))
		}
		return nil
	})
	sort.Strings(files)
	for _, f := range files {
		if err == nil {
			err = do(f)
		}
	}
	return err
}

// The rule catches what it is for.
func TestSpells(t *testing.T) {
	names := map[string]string{"usr/lib/kairos/boot": "BootDir", "COS_STATE": "LabelState", "/oem": "MountOEM"}
	for text, want := range map[string]string{
		"usr/lib/kairos/boot": "BootDir", "/usr/lib/kairos/boot": "BootDir",
		"/usr/lib/kairos/boot/stub.efi": "BootDir",
		"/oem":                          "MountOEM", "/oem/auth.json": "MountOEM", "oem": "",
		"COS_STATE": "LabelState", "usr/lib/kairos": "", "usr/lib/kairos/bootable": "",
		"the folder /usr/lib/kairos/boot": "",
	} {
		if got, _ := spells(names, text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
