package provision

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/provision/accounts"
	"github.com/kairos-buildkit/kairos/node/provision/tree"
)

// applyFiles writes write_files. A user's link is never followed: see package tree.
func (s *System) applyFiles(c *config.Config) {
	for i, f := range c.WriteFiles() {
		if err := s.writeFile(f); err != nil {
			s.problem(f.Pos, fmt.Sprintf("write_files[%d]", i), "%s: %v", f.Path, err)
		}
	}
}

func (s *System) writeFile(f config.WriteFile) error {
	if f.Err != nil {
		return f.Err
	}
	f.Content = []byte(s.renderedIfKnown(string(f.Content)))
	a := tree.Attr{Mode: f.FileMode(), UID: -1, GID: -1}
	var owner error
	if f.Owner != "" {
		if a.UID, a.GID, owner = accounts.Owner(s.root, f.Owner); owner != nil {
			a.UID, a.GID = -1, -1 // root's until somebody corrects it
		}
	}
	d, name, err := s.root.Parent(f.Path)
	if err != nil {
		return err
	}
	defer d.Close()
	if f.Append {
		return errors.Join(owner, appendOnce(d, name, f.Content, a))
	}
	return errors.Join(owner, d.WriteFile(name, f.Content, a))
}

// maxAppend bounds a file that something is appended to, in bytes.
const maxAppend = 64 << 20

// appendOnce appends to a file what it does not have: one on PERSISTENT would grow at each boot.
func appendOnce(d *tree.Dir, name string, data []byte, a tree.Attr) error {
	old, err := d.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return d.WriteFile(name, data, a)
	}
	if err != nil {
		return err
	}
	defer old.Close()
	b, err := d.ReadFile(name, maxAppend)
	if err != nil || bytes.Contains(b, data) {
		return err
	}
	a.Like = old
	return d.WriteFile(name, append(b, data...), a)
}

// applyRunCmd leaves the commands of runcmd as a script. A line that fails, or that is no shell at all, does not end
// the rest; the script says which ones failed.
func (s *System) applyRunCmd(c *config.Config) {
	commands := c.RunCmd()
	if len(commands) == 0 {
		return
	}
	var b bytes.Buffer
	b.WriteString("failed=\n")
	for i, cmd := range commands {
		cmd.Line = s.renderedIfKnown(cmd.Line)
		for i, word := range cmd.Argv {
			cmd.Argv[i] = s.renderedIfKnown(word)
		}
		fmt.Fprintf(&b, "( eval %s ) || failed=\"$failed %d\"\n", quote(cmd.Shell()), i)
	}
	b.WriteString("[ -z \"$failed\" ] || { echo \"runcmd: these failed (counted from 0):$failed\"; exit 1; }\n")
	s.check("runcmd", s.write(layout.RunCmd, b.Bytes(), 0o700))
}
