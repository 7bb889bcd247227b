package arch

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	maxColumns = 119 // of a line of Go
	tabColumns = 4
)

// private are words that the field says otherwise, and what it says.
var private = []struct {
	word  *regexp.Regexp
	plain string
}{
	{regexp.MustCompile(`(?i)\b(brings?|brought)( \w+){0,6} to the disk\b`), "fsynced"},
	{regexp.MustCompile(`(?i)\banew\b|\bmade again\b`), "regenerated, rebuilt, formatted, again"},
	{regexp.MustCompile(`(?i)\bcut (off|short)\b`), "interrupted, truncated"},
	{regexp.MustCompile(`(?i)\bone write of the disk\b`), "sector-atomic"},
	{regexp.MustCompile(`(?i)\bslots?\b.*\b(inodes?|folder|directory)\b|\b(inodes?|folder|directory)\b.*\bslots?\b`),
		"dirent, unit: a slot is a boot role's place"},
}

// Lines of Go are short enough for two windows side by side, and all texts say what the field says.
func TestTexts(t *testing.T) {
	root := filepath.Join("..", "..")
	checked := 0
	for _, rel := range texts(t, root) {
		content, err := os.ReadFile(filepath.Join(root, rel))
		if err != nil {
			t.Fatal(err)
		}
		checked++
		for i, line := range strings.Split(string(content), "\n") {
			for _, problem := range checkText(rel, line) {
				t.Errorf("%s:%d: %s", rel, i+1, problem)
			}
		}
	}
	if checked < 100 {
		t.Fatalf("only %d texts found", checked)
	}
}

// checkText returns what is wrong with a line of a file.
func checkText(name, line string) (problems []string) {
	if n := columns(line); path.Ext(name) == ".go" && n > maxColumns {
		problems = append(problems, "the line is too long: wrap it")
	}
	for _, p := range private {
		if word := p.word.FindString(line); word != "" {
			problems = append(problems, "\""+word+"\": say "+p.plain)
		}
	}
	return problems
}

func columns(line string) (n int) {
	for _, r := range line {
		if r == '\t' {
			n += tabColumns - n%tabColumns
		} else {
			n++
		}
	}
	return n
}

// texts returns the project's own files that are written by hand, tests included.
func texts(t *testing.T, root string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch {
		case !d.IsDir():
			if rel != "go.sum" && rel != "LICENSE" && rel != "internal/arch/text_test.go" {
				files = append(files, rel)
			}
		case rel == "build", rel == "assets/files", d.Name() == "testdata",
			len(rel) > 1 && strings.HasPrefix(d.Name(), ".") && rel != ".ci":
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// The rules catch what they are for.
func TestCheckText(t *testing.T) {
	for _, tc := range []struct {
		name, line string
		ok         bool
	}{
		{"a.go", strings.Repeat("x", 119), true},
		{"a.go", strings.Repeat("x", 120), false},
		{"a.go", "\t" + strings.Repeat("ä", 115), true},
		{"a.go", "x\t" + strings.Repeat("x", 116), false},
		{"a.md", strings.Repeat("x", 120), true},
		{"a.md", "The file is brought safely to the disk.", false},
		{"a.md", "The disk to which it is brought", true},
		{"a.go", "// made anew", false},
		{"a.go", "// renewed", true},
		{"scripts/base", "# Cut off by a signal", false},
		{"a.go", "// the inode's slot", false},
		{"a.go", "// each slot role", true},
	} {
		if got := checkText(tc.name, tc.line); (len(got) == 0) != tc.ok {
			t.Errorf("%s: %q: got %q", tc.name, tc.line, got)
		}
	}
}
