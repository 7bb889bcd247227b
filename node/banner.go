package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
)

// Banner makes the login prompt and the message after login say what is wrong, if something
// is: a release that failed, the recovery system, or what this boot could not do. Both files are in memory.
func (m *Machine) Banner() error {
	s, err := m.Status()
	if err != nil {
		return err
	}
	var b strings.Builder
	if s.Mode == "recovery" {
		b.WriteString("This is the recovery system. See `kairos-apply status`.\n")
	}
	for _, p := range s.Problems {
		fmt.Fprintf(&b, "Problem: %s\n", firstLine(p))
	}
	// Everybody reads it: what a program printed is for root.
	if problems := configProblems(m.Root); len(problems) > 0 {
		fmt.Fprintf(
			&b,
			"Problems with the cloud-config: %d, the first: %s\nSee `kairos-apply status`.\n",
			len(problems),
			firstLine(printable(problems[0].Message)),
		)
	}
	for _, f := range s.Failed {
		name := f.Release
		if f.Version != "" {
			name += " (" + f.Version + ")"
		}
		fmt.Fprintf(&b, "Release %s failed and was given up", name)
		if f.Failure != nil {
			fmt.Fprintf(&b, ": %s", f.Failure.Reason)
		}
		b.WriteString("\nSee `kairos-apply status`.\n")
	}
	return m.announce(b.String())
}

// announce makes the login prompt and the message after login say something, or nothing.
func (m *Machine) announce(text string) error {
	for _, name := range []string{"run/issue.d/kairos.issue", "run/motd.d/kairos"} {
		path := m.path(name)
		if text == "" {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		text := text
		if strings.HasSuffix(name, ".issue") {
			text = strings.ReplaceAll(text, `\`, `\\`) + "\n" // agetty's escapes
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Say has the login prompt say why an unattended installation waits for a person.
func (m *Machine) Say(e *InstalledError) error { return m.announce("Kairos: " + e.Error() + "\n") }

// CollectPanic keeps what the kernel left in the firmware's memory when it panicked
// (pstore), as the report of a release that failed without one.
func (m *Machine) CollectPanic() error {
	if m.installed() != nil {
		return nil
	}
	slots, err := m.ESP.State()
	if err != nil {
		return err
	}
	var id string
	for _, e := range slots.Entries {
		if e.Bad() && e.ID != m.booted() {
			id = e.ID
			break
		}
	}
	if id == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(m.State.Dir(), layout.FailurePath(id))); err == nil {
		return nil
	}
	log := m.pstore()
	if log == "" {
		return nil
	}
	return m.reportFailure(id, panicReason(log), log)
}

// panicReason is a panic's reason, from its log.
func panicReason(log string) string {
	reason := "the kernel panicked"
	for line := range strings.Lines(log) {
		if _, after, ok := strings.Cut(line, "Kernel panic - not syncing: "); ok {
			reason = "kernel panic: " + strings.TrimSpace(after)
		}
	}
	return reason
}

// pstore returns the records of the last panic. Each has a part of the log, the first
// record the last part.
func (m *Machine) pstore() string {
	var files []string
	for _, dir := range []string{"sys/fs/pstore", "var/lib/systemd/pstore"} {
		for _, pattern := range []string{"dmesg-*", "*/dmesg*", "*/*/dmesg*"} {
			found, _ := filepath.Glob(filepath.Join(m.path(dir), pattern))
			files = append(files, found...)
		}
	}
	slices.Sort(files)
	slices.Reverse(files)
	var b strings.Builder
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil {
			b.WriteString(strings.ToValidUTF8(string(text), "?"))
		}
	}
	return lastLines(b.String(), 60)
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func firstLine(s string) string {
	first, _, _ := strings.Cut(s, "\n")
	return first
}
