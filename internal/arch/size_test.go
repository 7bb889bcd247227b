package arch

import (
	"bytes"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// maxLines is how many lines of Go a package has at most, without its tests: what a person reads in a day.
const maxLines = 3000

var largePackage = regexp.MustCompile("(?m)^\\| `([a-z0-9/-]+)` \\| [^|`]{20,} \\|$")

// A package that is larger has its reason in DESIGN.md, and one that is not has none there.
func TestPackageSizes(t *testing.T) {
	root := filepath.Join("..", "..")
	reasons := packageReasons(t, root, "| package | why it has more than 3,000 lines |")
	lines := packageLines(t, root)
	for p, n := range lines {
		if n > maxLines && !reasons[p] && !within(p, "cmd") {
			t.Errorf("%s has %d lines: split it, or give DESIGN.md the reason why not", p, n)
		}
	}
	for p := range reasons {
		if lines[p] <= maxLines {
			t.Errorf("%s has %d lines: it needs no reason in DESIGN.md any more", p, lines[p])
		}
	}
}

// packageReasons reads the table of DESIGN.md that has this head: the packages with a reason why they are large.
func packageReasons(t *testing.T, root, head string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "DESIGN.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), head+"\n| --- | --- |\n")
	if !ok {
		t.Fatalf("DESIGN.md has no table %s", head)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	reasons := map[string]bool{}
	for _, m := range largePackage.FindAllStringSubmatch(table, -1) {
		reasons[m[1]] = true
	}
	if len(reasons) != len(strings.Split(table, "\n")) {
		t.Errorf("DESIGN.md: a row of the table %s is none:\n%s", head, table)
	}
	return reasons
}

// packageLines counts the lines of each package.
func packageLines(t *testing.T, root string) map[string]int {
	t.Helper()
	lines := map[string]int{}
	for _, rel := range texts(t, root) {
		if path.Ext(rel) != ".go" || strings.HasSuffix(rel, "_test.go") {
			continue
		}
		b, err := fs.ReadFile(os.DirFS(root), rel)
		if err != nil {
			t.Fatal(err)
		}
		lines[path.Dir(rel)] += bytes.Count(b, []byte("\n"))
	}
	if len(lines) < 20 {
		t.Fatalf("only %d packages found", len(lines))
	}
	return lines
}
