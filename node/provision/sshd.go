package provision

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/layout"
)

// sshKeysOnly is what install.ssh_hardening has sshd read. Of several files the first one in the order of their names
// counts, so that a node's owner can relax it with one such as 01-my.conf.
const sshKeysOnly = "/etc/ssh/sshd_config.d/50-kairos-keys-only.conf"

// ChallengeResponseAuthentication is the name of KbdInteractiveAuthentication that all versions of OpenSSH know.
const sshKeysOnlyText = `# Written by Kairos: the node's cloud-config has install.ssh_hardening.
PasswordAuthentication no
ChallengeResponseAuthentication no
AuthenticationMethods publickey
`

// applySSH has SSH take keys alone, where the config says it. /etc/ssh is persistent: what an earlier config said is
// taken back. A config with mistakes opens nothing that the last good one has closed.
func (s *System) applySSH(c, last *config.Config) {
	if s.boot.Role == layout.RoleLive {
		return
	}
	hard := c.Install().SSHHardening || last != nil && last.Install().SSHHardening
	s.check("install.ssh_hardening", s.setSSH(hard, c.HasKeys() || last != nil && last.HasKeys()))
}

func (s *System) setSSH(hard, keys bool) error {
	if !hard {
		return s.remove(sshKeysOnly)
	}
	if !keys {
		return errors.New("no user has a key, and nobody could log in by SSH: passwords are taken as before")
	}
	reads := false
	for _, name := range []string{"/etc/ssh/sshd_config", "/usr/etc/ssh/sshd_config"} {
		reads = reads || strings.Contains(s.text(name), "sshd_config.d")
	}
	if !reads {
		return errors.New("the image has no sshd_config that includes /etc/ssh/sshd_config.d/*.conf: " +
			"add the line `Include /etc/ssh/sshd_config.d/*.conf` in its Dockerfile")
	}
	return s.write(sshKeysOnly, []byte(sshKeysOnlyText), 0o644)
}

// remove removes a file of root's, if it is there.
func (s *System) remove(name string) error {
	d, base, err := s.lookup(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Remove(base)
}
