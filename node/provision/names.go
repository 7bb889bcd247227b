package provision

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/node/provision/tree"
)

// hostname is what RFC 1123 allows, 64 characters at most as the kernel has it.
var hostname = regexp.MustCompile(
	`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`,
)

// applyNames gives the node its name.
func (s *System) applyNames(c *config.Config) {
	name, err := s.templated(c.Hostname())
	if err == nil && name != "" {
		err = s.setHostname(name, s.rendered(c.FQDN()), c.Get("manage_etc_hosts").Text() != "false")
	}
	if err != nil {
		s.problem(c.Get("hostname").Pos(), "hostname", "%v", err)
	}
}

func (s *System) setHostname(name, fqdn string, hosts bool) error {
	if !hostname.MatchString(name) || len(name) > 64 {
		return fmt.Errorf("%q is no hostname: want letters, digits, - and ., at most 64", name)
	}
	if err := s.write("/etc/hostname", []byte(name+"\n"), 0o644); err != nil {
		return err
	}
	if s.running() {
		if err := unix.Sethostname([]byte(name)); err != nil {
			return err
		}
	}
	if !hosts {
		return nil
	}
	return s.addHost(name, fqdn)
}

// addHost has the node's own name resolve, as sudo(8) wants it to, without a name server.
func (s *System) addHost(name, fqdn string) error {
	b, err := s.root.ReadFile("/etc/hosts", 1<<20)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text := string(b)
	if text == "" {
		text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
	}
	want := "127.0.1.1 " + name
	if fqdn != "" && fqdn != name {
		want = "127.0.1.1 " + fqdn + " " + name
	}
	var out strings.Builder
	done := false
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == "127.0.1.1" {
			if done {
				continue
			}
			line, done = want+"\n", true
		}
		out.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
	if !done {
		out.WriteString(want + "\n")
	}
	return s.write("/etc/hosts", []byte(out.String()), 0o644)
}

// applyTime sets the time zone, the locale and the time servers.
func (s *System) applyTime(c *config.Config) {
	fail := func(key string, err error) {
		if err != nil {
			s.problem(c.Get(key).Pos(), key, "%v", err)
		}
	}
	if zone := c.Timezone(); zone != "" {
		fail("timezone", s.setTimezone(zone))
	}
	if locale := c.Locale(); locale != "" {
		fail("locale", s.setLocale(locale))
	}
	if n := c.NTP(); n.Set {
		fail("ntp", s.setNTP(n))
	}
}

func (s *System) setTimezone(zone string) error {
	const zones = "/usr/share/zoneinfo/"
	if strings.Contains(zone, "..") || !s.exists(zones+zone) {
		return fmt.Errorf("the image has no time zone %q: install tzdata in its Dockerfile, or correct the name", zone)
	}
	d, err := s.root.Dir("/etc")
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Symlink(zones+zone, "localtime"); err != nil {
		return err
	}
	return d.WriteFile("timezone", []byte(zone+"\n"), tree.Attr{Mode: 0o644, UID: -1, GID: -1})
}

func (s *System) setLocale(locale string) error {
	if strings.ContainsAny(locale, "\n\"'`$\\ ") {
		return fmt.Errorf("locale %q: want one like en_US.UTF-8", locale)
	}
	line := []byte("LANG=" + locale + "\n")
	if err := s.write("/etc/locale.conf", line, 0o644); err != nil {
		return err
	}
	if s.exists("/etc/default") {
		return s.write("/etc/default/locale", line, 0o644)
	}
	return nil
}

// timesyncd are systemd-timesyncd's settings of the cloud-config.
const timesyncd = "/etc/systemd/timesyncd.conf.d/50-kairos.conf"

func (s *System) setNTP(n config.NTP) error {
	if !s.exists("/usr/lib/systemd/systemd-timesyncd") && !s.exists("/lib/systemd/systemd-timesyncd") {
		return errors.New(
			"the image has no systemd-timesyncd: install it in its Dockerfile, " +
				"or write your NTP client's config with write_files",
		)
	}
	const unit = "/etc/systemd/system/systemd-timesyncd.service"
	if !n.Enabled {
		d, base, err := s.root.Parent(unit)
		if err != nil {
			return err
		}
		defer d.Close()
		return d.Symlink("/dev/null", base)
	}
	servers := append(append([]string{}, n.Servers...), n.Pools...)
	for _, name := range servers {
		if strings.ContainsAny(name, " \n") {
			return fmt.Errorf("time server %q: want a name or an address", name)
		}
	}
	if len(servers) == 0 {
		return nil
	}
	return s.write(timesyncd, []byte("[Time]\nNTP="+strings.Join(servers, " ")+"\n"), 0o644)
}
