package layout

import (
	"fmt"
	"strings"
)

// Kernel command-line keys that Kairos reads.
const (
	// CmdlineRelease names the release to boot, on boot paths that have no
	// StubImageIdentifier (GRUB). Value: release id.
	CmdlineRelease = "kairos.release"
	// CmdlineESP names the partition that holds the loader, by its GPT partition GUID, on
	// boot paths that have no LoaderDevicePartUUID (GRUB).
	CmdlineESP = "kairos.esp"
	// CmdlineRole is "recovery" where GRUB boots the recovery system.
	CmdlineRole = "kairos.role"
	// CmdlineTries is present where GRUB boots a release that has to prove healthy. Value:
	// tries left after this one.
	CmdlineTries = "kairos.tries"
	// CmdlineLive is present where the medium is a live medium.
	CmdlineLive = "kairos.live"
	// CmdlineDebug makes /init say each step that it takes.
	CmdlineDebug = "kairos.debug"
	// CmdlineConfigURL names a cloud-config to fetch.
	CmdlineConfigURL = "kairos.config_url"
	// CmdlineConfigSHA256 is the digest of that cloud-config, 64 hex digits. An address with http:// takes one.
	CmdlineConfigSHA256 = "kairos.config_sha256"
	// CmdlineInstall asks a live medium for an installation: InstallAsk or InstallAuto.
	CmdlineInstall = "kairos.install"
	// CmdlineCheck asks a live medium to read all its layers, and to say which is damaged.
	CmdlineCheck = "kairos.check"
	// CmdlineReset asks the recovery system for an unattended reset.
	CmdlineReset = "kairos.reset"
)

// Values of CmdlineInstall.
const (
	InstallAsk  = "ask"  // a person at the console, who confirms
	InstallAuto = "auto" // at once, as with install.auto in the config
)

// Cmdline is a kernel command line, split into its words.
type Cmdline []string

// ParseCmdline splits a kernel command line as the kernel does: at white space outside
// double quotes. Quotes are kept.
func ParseCmdline(s string) Cmdline {
	var words Cmdline
	var word strings.Builder
	quoted, started := false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted, started = !quoted, true
			word.WriteByte(c)
		case !quoted && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			if started {
				words = append(words, word.String())
				word.Reset()
				started = false
			}
		default:
			started = true
			word.WriteByte(c)
		}
	}
	if started {
		words = append(words, word.String())
	}
	return words
}

// Get returns the value of the last word "key=value", or of a bare "key" (then ""), and
// whether there is one. Quotes around the value, or around the whole word, are removed.
func (c Cmdline) Get(key string) (value string, ok bool) {
	for _, w := range c {
		if len(w) >= 2 && w[0] == '"' && w[len(w)-1] == '"' {
			w = w[1 : len(w)-1]
		}
		k, v, _ := strings.Cut(w, "=")
		if k == key {
			if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
				v = v[1 : len(v)-1]
			}
			value, ok = v, true
		}
	}
	return value, ok
}

// String joins the words.
func (c Cmdline) String() string { return strings.Join(c, " ") }

// maxCmdline is the length in bytes of an image's command line: what the kernel takes (2047 on amd64 and
// arm64), less what a boot loader adds.
const maxCmdline = 1900

// Portable returns the command line whose words arrive as they are under each boot loader, or says
// which word cannot. GRUB puts a backslash before quotes and backslashes, and takes a word with
// spaces apart; quotes that the kernel would take off are taken off here.
func (c Cmdline) Portable() (Cmdline, error) {
	var words Cmdline
	for _, w := range c {
		key, value, hasValue := strings.Cut(w, "=")
		switch {
		case enclosed(w):
			w = w[1 : len(w)-1]
		case hasValue && enclosed(value) && !strings.Contains(key, `"`):
			w = key + "=" + value[1:len(value)-1]
		}
		if i := strings.IndexFunc(w,
			func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"'\\`, r) }); i >= 0 ||
			w == "" {
			return nil, fmt.Errorf(
				"kernel command line: the word %q has a space, a quote, a backslash or a character outside of ASCII, "+
					"which not every boot loader hands on: leave it out",
				w,
			)
		}
		words = append(words, w)
	}
	if n := len(words.String()); n > maxCmdline {
		return nil, fmt.Errorf(
			"kernel command line: it has %d characters, and the kernel takes %d: shorten it",
			n,
			maxCmdline,
		)
	}
	return words, nil
}

func enclosed(s string) bool {
	return len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"'
}
