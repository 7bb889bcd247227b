package arch

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A program's version follows its sources, and nothing else.
func TestVersionScript(t *testing.T) {
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		c := exec.Command(name, args...)
		c.Dir = dir
		c.Env = append(
			os.Environ(),
			"GIT_CONFIG_GLOBAL=/dev/null",
			"GIT_CONFIG_SYSTEM=/dev/null",
			"GOFLAGS=",
			"GOWORK=off",
			"GIT_AUTHOR_NAME=a",
			"GIT_AUTHOR_EMAIL=a@b.c",
			"GIT_COMMITTER_NAME=a",
			"GIT_COMMITTER_EMAIL=a@b.c",
		)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	version := func() string { t.Helper(); return run("scripts/version", "./cmd/p") }
	commit := func() string {
		t.Helper()
		run("git", "add", "-A")
		run("git", "commit", "-qm", "c")
		return run("git", "rev-parse", "HEAD")[:12]
	}
	script, err := os.ReadFile(filepath.Join("..", "..", "scripts", "version"))
	if err != nil {
		t.Fatal(err)
	}
	write("scripts/version", string(script))
	write("go.mod", "module example.com/m\n\ngo 1.26\n")
	write("cmd/p/main.go", "package main\n\nimport _ \"example.com/m/lib\"\n\nfunc main() {}\n")
	write("lib/a.go", "package lib\n")
	write("lib/b.go", "package lib\n")
	write("other/o.go", "package other\n")

	sources := version()
	if !strings.HasPrefix(sources, "sources-") {
		t.Errorf("without git: %s", sources)
	}
	write("README", "changed")
	if got := version(); got != sources {
		t.Errorf("a document changed %s to %s", sources, got)
	}
	run("git", "init", "-q")
	first := commit()
	if got := version(); got != first {
		t.Errorf("got %s, want the commit %s", got, first)
	}
	write("lib/a_test.go", "package lib\n")
	write("other/o.go", "package other // changed\n")
	commit()
	if got := version(); got != first {
		t.Errorf("after a commit that changed other things: %s, want %s", got, first)
	}
	write("lib/a.go", "package lib // changed\n")
	if got := version(); got != first+"-dirty" {
		t.Errorf("with a change that is not committed: %s, want %s-dirty", got, first)
	}
	if err := os.Remove(filepath.Join(dir, "lib/b.go")); err != nil {
		t.Fatal(err)
	}
	second := commit()
	if got := version(); got != second {
		t.Errorf("after a file was removed: %s, want %s", got, second)
	}
	run("git", "tag", "v1.2.3")
	if got := version(); got != "v1.2.3" {
		t.Errorf("of a tag: %s", got)
	}
}
