package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// At boot one of three files is not as its author meant it: what is right in it takes effect, as the other two do, and
// status says what is not. At build such a file is refused, see package builder.
func TestOddFilesAtBoot(t *testing.T) {
	const good = "write_files: [{path: /etc/odd, content: good}]\n"
	const comment = "# a comment of some length\n"
	for name, tc := range map[string]struct {
		text    string
		applies bool   // whether good, which is in the text, takes effect
		problem string // where, path and message begin with it; "" for none
	}{
		"wrong key":       {"hostnam: n2\n" + good, true, `20.yaml:1: hostnam: the key is not known: did you`},
		"wrong type":      {good + "users: 3\n", true, `20.yaml:2: users: want a list, not "3"`},
		"broken":          {good + "users: [\n", false, "20.yaml:2: this is not YAML"},
		"empty":           {"", false, ""},
		"1 MB comments":   {strings.Repeat(comment, 1<<20/len(comment)+1) + good, true, ""},
		"anchors":         {"x-path: &p /etc/odd\nwrite_files: [{path: *p, content: good}]\n", true, ""},
		"merge key":       {"x-file: &f {path: /etc/odd}\nwrite_files: [{<<: *f, content: good}]\n", true, ""},
		"alias of itself": {good + "x-a: &a [*a]\n", true, "20.yaml:2: within what it stands for"},
		"tab":             {good + "install:\n\tauto: true\n", false, "20.yaml:3: use spaces"},
		"tab at the end":  {strings.TrimSpace(good) + "\t\n", true, ""},
		"CRLF":            {"#cloud-config\r\n" + strings.ReplaceAll(good, "\n", "\r\n"), true, ""},
		"byte order mark": {"\xef\xbb\xbf#cloud-config\n" + good, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := fakeRoot(t, layout.RoleSystem, "hostname: n1\n") // 90_custom.yaml
			for file, text := range map[string]string{
				"10.yaml": "write_files: [{path: /etc/ten, content: ten}]\n", "20.yaml": tc.text,
			} {
				if err := os.WriteFile(filepath.Join(root, layout.MountOEM, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := ApplyConfig(root); (err != nil) != (tc.problem != "") {
				t.Error(err)
			}
			want := map[string]string{"etc/hostname": "n1\n", "etc/ten": "ten", "etc/odd": ""}
			if tc.applies {
				want["etc/odd"] = "good"
			}
			for file, text := range want {
				if b, _ := os.ReadFile(filepath.Join(root, file)); string(b) != text {
					t.Errorf("%s is %q, want %q", file, b, text)
				}
			}
			problems := configProblems(root)
			if tc.problem == "" {
				if len(problems) > 0 {
					t.Errorf("%v", problems)
				}
				return
			}
			where, message, _ := strings.Cut(tc.problem, ": ")
			if len(problems) != 1 || problems[0].Where != where || !strings.Contains(problems[0].String(), message) {
				t.Errorf("status has %v, want %s", problems, tc.problem)
			}
		})
	}
}
