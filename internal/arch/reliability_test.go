package arch

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testName is a test as the table names it.
var testName = regexp.MustCompile("`(Test[A-Z][A-Za-z0-9]*)`")

var testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)

// Each test that docs/reliability.md names is one that this repository has, and each of its lines names one.
func TestReliabilityNamesTests(t *testing.T) {
	root := filepath.Join("..", "..")
	doc, err := os.ReadFile(filepath.Join(root, "docs", "reliability.md"))
	if err != nil {
		t.Fatal(err)
	}
	have, err := tests(root)
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for n, line := range strings.Split(string(doc), "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| fault ") || strings.HasPrefix(line, "| --- ") {
			continue
		}
		lines++
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if len(cells) != 4 {
			t.Errorf("docs/reliability.md:%d: %d columns, want 4", n+1, len(cells))
			continue
		}
		names := testName.FindAllStringSubmatch(cells[3], -1)
		if len(names) == 0 {
			t.Errorf("docs/reliability.md:%d: no test", n+1)
		}
		for _, name := range names {
			if !have[name[1]] {
				t.Errorf("docs/reliability.md:%d: there is no %s", n+1, name[1])
			}
		}
	}
	if lines == 0 {
		t.Error("docs/reliability.md has no table")
	}
}

// tests returns the names of all tests, whatever their build tags.
func tests(root string) (map[string]bool, error) {
	names := map[string]bool{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != root && (d.Name() == "build" || strings.HasPrefix(d.Name(), ".")) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(name, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for _, found := range testFunc.FindAllSubmatch(b, -1) {
			names[string(found[1])] = true
		}
		return nil
	})
	return names, err
}
