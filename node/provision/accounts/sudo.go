package accounts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/node/provision/tree"
)

// sudoersDir is where sudo's own file includes rules from. A name with a dot is none for it.
const sudoersDir = "/etc/sudoers.d"

// maySudo are the groups whose members may do everything, with the rule of the Kairos project's images for admin and
// of the distributions for the others.
var maySudo = map[string]string{
	"admin": "%admin ALL=(ALL:ALL) NOPASSWD: ALL",
	"sudo":  "%sudo ALL=(ALL:ALL) ALL",
	"wheel": "%wheel ALL=(ALL:ALL) ALL",
}

func adminGroups(u User) (groups []string) {
	for _, g := range append([]string{u.PrimaryGroup}, u.Groups...) {
		if maySudo[g] != "" {
			groups = append(groups, g)
		}
	}
	return groups
}

// allowAdmins gives sudo to the members of some groups.
func (s System) allowAdmins(groups []string) error {
	if len(groups) == 0 {
		return nil
	}
	slices.Sort(groups)
	text := ""
	for _, g := range slices.Compact(groups) {
		text += maySudo[g] + "\n"
	}
	return s.writeSudo("80-kairos-groups", []byte(text))
}

// allow gives a user its own rules.
func (s System) allow(u User) error {
	text := ""
	for _, rule := range u.Sudo {
		if strings.ContainsAny(rule, "\n\r") {
			return fmt.Errorf("sudo rule %q: want one line", rule)
		}
		text += u.Name + " " + rule + "\n"
	}
	return s.writeSudo("90-kairos-"+strings.ReplaceAll(u.Name, ".", "-"), []byte(text))
}

func (s System) writeSudo(name string, text []byte) error {
	if _, err := s.Root.ReadFile("/etc/sudoers", 1<<20); err != nil {
		return fmt.Errorf("sudo: the image has none (%w): install the package sudo in its Dockerfile", err)
	}
	// A mistake in one file is the end of sudo for all.
	if err := s.Sudoers.Check(text); err != nil {
		return fmt.Errorf("sudo: %w", err)
	}
	return s.Root.WriteFile(sudoersDir+"/"+name, text, tree.Attr{Mode: 0o440, UID: -1, GID: -1})
}

// Sudoers judges the text of a file in sudoers.d.
type Sudoers interface {
	// Check says what is wrong with it.
	Check(text []byte) error
}

// StrictSudoers takes a strict part of sudoers(5), where visudo(8) is not there to judge: a user or a group to a line,
// hosts, who to be, tags, commands.
type StrictSudoers struct{}

// Check is [Sudoers].
func (StrictSudoers) Check(text []byte) error {
	for line := range strings.Lines(string(text)) {
		_, rule, _ := strings.Cut(strings.TrimSpace(line), " ")
		if err := checkRule(rule); err != nil {
			return err
		}
	}
	return nil
}

// rule is what StrictSudoers takes.
var rule = regexp.MustCompile(`^(ALL|[a-z0-9.-]+) *= *` +
	`(\( *([%#]?[A-Za-z0-9_.-]+( *, *[%#]?[A-Za-z0-9_.-]+)*)? *(: *[#]?[A-Za-z0-9_.-]+( *, ` +
	`*[#]?[A-Za-z0-9_.-]+)*)? *\) *)?` +
	`((NO)?(PASSWD|EXEC|SETENV|LOG_INPUT|LOG_OUTPUT|FOLLOW|MAIL|INTERCEPT): *)*` +
	`(!? *(ALL|sudoedit|/[A-Za-z0-9_./*-]+)( +[A-Za-z0-9_./*@%+-]+)*|!? *ALL)` +
	`( *, *!? *(ALL|/[A-Za-z0-9_./*-]+)( +[A-Za-z0-9_./*@%+-]+)*)*$`)

func checkRule(text string) error {
	if !rule.MatchString(strings.TrimSpace(text)) {
		return fmt.Errorf("sudo rule %q: want one like `ALL=(ALL) NOPASSWD:ALL`", text)
	}
	return nil
}

// Visudo is the program visudo(8). The text is left in a file in Dir for it.
type Visudo struct{ Program, Dir string }

// Check is [Sudoers].
func (v Visudo) Check(text []byte) error {
	f, err := os.CreateTemp(v.Dir, "sudoers-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, v.Program, "-c", "-f", f.Name()).CombinedOutput()
	if err != nil {
		out = bytes.ReplaceAll(bytes.TrimSpace(out), []byte(f.Name()), []byte("rule"))
		return fmt.Errorf("visudo: %w: %s", err, out)
	}
	return nil
}
