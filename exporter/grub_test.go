package exporter

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

func TestGrubConfigKeepsTheCommandLine(t *testing.T) {
	for in, want := range map[string]string{
		"console=tty0 panic=10": `'console=tty0' 'panic=10'`,
		`key="a b" plain`:       `'key=a b' 'plain'`,
		`it's $HOME;reboot`:     `'it'\''s' '$HOME;reboot'`,
	} {
		if got := grubWords(layout.ParseCmdline(in)); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestGrubConfigIsAScript(t *testing.T) {
	name := filepath.Join(t.TempDir(), "grub.cfg")
	check := func(text string) error {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return exec.Command("grub-script-check", name).Run()
	}
	text := string(liveGrubConfig(layout.ParseCmdline(`it's "a b" {`), "it's \"new\"; $x`y` - v1"))
	if err := check(text); err != nil {
		t.Errorf("grub-script-check: %v\n%s", err, text)
	}
	if err := check(strings.TrimSuffix(text, "}\n")); err == nil {
		t.Error("grub-script-check accepts a broken script")
	}
}
