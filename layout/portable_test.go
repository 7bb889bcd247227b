package layout

import (
	"slices"
	"strings"
	"testing"
)

// grubUnquote reads one assignment as GRUB's shell does: single quotes keep all, double quotes
// keep a single quote.
func grubUnquote(t *testing.T, entry string) string {
	t.Helper()
	rest, ok := strings.CutPrefix(strings.TrimSuffix(entry, "\n"), "set kairos_cmdline=")
	if !ok || strings.Contains(rest, "\n") {
		t.Fatalf("entry %q", entry)
	}
	var b strings.Builder
	for rest != "" {
		quote := rest[0]
		if quote != '\'' && quote != '"' {
			t.Fatalf("entry %q: %q is not quoted", entry, rest)
		}
		end := strings.IndexByte(rest[1:], quote)
		if end < 0 {
			t.Fatalf("entry %q: no end", entry)
		}
		b.WriteString(rest[1 : end+1])
		rest = rest[end+2:]
	}
	return b.String()
}

func TestPortableCmdline(t *testing.T) {
	for in, want := range map[string]string{
		`quiet  console=ttyS0,115200`: `quiet console=ttyS0,115200`,
		`a=$b c=#d e={f} g=;h i=(j)`:  `a=$b c=#d e={f} g=;h i=(j)`,
		`a="b" "c=d" "e"`:             `a=b c=d e`,
		strings.Repeat("x", 1900):     strings.Repeat("x", 1900),
	} {
		if got, err := ParseCmdline(in).Portable(); err != nil || got.String() != want {
			t.Errorf("%.60q: %.60q, %v", in, got, err)
		}
	}
	for _, bad := range []string{
		`a="b c"`, `"a b"`, `a=b"c"`, `a='b'`, `a=b\c`, `a=ü`, `""`, "a\x01", strings.Repeat("x ", 951),
	} {
		if got, err := ParseCmdline(bad).Portable(); err == nil {
			t.Errorf("%.60q: %.60q", bad, got)
		}
	}
}

// What is portable arrives through GRUB: its assignment gives the same text, and taken apart at spaces,
// the same words, none of which GRUB would put a backslash into.
func FuzzGrubEntry(f *testing.F) {
	f.Add(`quiet a=$b c=#d x="y"`)
	f.Add("a='b' \\ \"")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCmdline(s).Portable()
		if err != nil {
			return
		}
		name, cmdline, _ := strings.Cut(string(GrubEntry(c.String(), s)), "\n")
		if name, ok := strings.CutPrefix(name, "set kairos_name='"); !ok || strings.Count(name, "'") != 1 {
			t.Errorf("%q is named %q", s, name)
		}
		got := grubUnquote(t, cmdline)
		if !slices.Equal(strings.Fields(got), []string(c)) || strings.ContainsAny(got, "\"'\\") {
			t.Errorf("%q arrives as %q", c, got)
		}
		if again, err := c.Portable(); err != nil || !slices.Equal(again, c) {
			t.Errorf("%q, once more: %q, %v", c, again, err)
		}
	})
}
