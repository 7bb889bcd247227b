package pcr

import (
	"fmt"

	"github.com/kairos-buildkit/kairos/uki"
)

// measured are the sections that systemd's stub extends PCR 11 by, in this order (systemd, src/fundamental/uki.h): all
// that it uses, but for the signatures, which are of the result.
var measured = []string{
	uki.Linux, uki.OSRel, uki.Cmdline, uki.Initrd, ".ucode", ".splash", ".dtb", uki.Uname, ".sbat", uki.PCRKey,
	uki.Profile,
}

// Started is what PCR 11 holds when the stub has started a profile of a UKI with these sections, which are those of
// the whole file, the stub's own among them: it brings .sbat along. 0 is the UKI as it is. What the stub adds to the
// command line, and files that it finds beside the UKI, it measures into other PCRs.
func Started(sections []uki.Section, profile int) (v Value, err error) {
	content := map[string][]byte{}
	at := -1 // the profile that the sections are of
	for _, s := range sections {
		if s.Name == uki.Profile {
			at++
		}
		if at < 0 || at == profile {
			content[s.Name] = s.Data
		}
	}
	if profile > max(at, 0) {
		return v, fmt.Errorf("the UKI has no profile %d", profile)
	}
	for _, name := range measured {
		if b, ok := content[name]; ok {
			v = v.Extend(append([]byte(name), 0)).Extend(b)
		}
	}
	return v, nil
}
