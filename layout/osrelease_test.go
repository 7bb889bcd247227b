package layout

import (
	"os/exec"
	"strings"
	"testing"
)

func TestParseOSRelease(t *testing.T) {
	got := ParseOSRelease(
		[]byte(
			"# ID=no\nID=debian\n VERSION_ID=\"13\" \nNAME='a " +
				"\\$b'\nX=\"a\\$b\\\"c\"\nbroken\nID_LIKE=\"a\r\"\nLAST=x",
		),
	)
	for key, want := range map[string]string{
		"ID":         "debian",
		"VERSION_ID": "13",
		"NAME":       `a \$b`,
		"X":          `a$b"c`,
		"LAST":       "x",
		"broken":     "",
	} {
		if got[key] != want {
			t.Errorf("%s: %q, want %q", key, got[key], want)
		}
	}
}

func FuzzOSRelease(f *testing.F) {
	for _, s := range []string{"", "v1.2.3", `a"b\c$d` + "`e'", `\\`, "  x "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if strings.ContainsAny(value, "\n\r\x00") {
			return
		}
		line := OSReleaseLine("KEY", value)
		if got := ParseOSRelease([]byte(line))["KEY"]; got != value {
			t.Errorf("%q became %q", value, got)
		}
	})
}

// The shell reads the same.
func TestOSReleaseLineInAShell(t *testing.T) {
	const value = `a "b" \c $HOME ` + "`id`" + ` 'd' \\ \$`
	out, err := exec.Command("sh", "-c", OSReleaseLine("KEY", value)+`printf %s "$KEY"`).CombinedOutput()
	if err != nil || string(out) != value {
		t.Errorf("%q, %v", out, err)
	}
}
