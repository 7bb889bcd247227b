package api

import (
	"fmt"
	"strings"
)

// ExitCode is how kairos-apply ended. Scripts may rely on it.
type ExitCode int

// Exit codes.
const (
	ExitDone      ExitCode = iota
	ExitFailed             // nothing that boots was changed, unless the message says otherwise
	ExitUsage              // the command line is wrong
	ExitNotRoot            // it was not started by root
	ExitLocked             // another run is at work
	ExitNoNode             // the machine is not installed
	ExitRefused            // nothing was changed at all
	ExitUnhealthy          // health checks failed
	ExitDamaged            // verify found damage that is left
	ExitUpgrade            // upgrade --check: an upgrade would change what boots
	ExitFellBack           // wait, --wait: the release has failed, and another one runs
)

var exitMeanings = []string{
	"done, or nothing to do",
	"failed; what boots was not changed, unless the message says otherwise",
	"wrong use of the command line",
	"needs root",
	"another kairos-apply is at work",
	"this is no installed node (a container, a live medium, another system)",
	"refused before anything was changed: no space, wrong architecture, image that cannot boot",
	"health checks failed",
	"damage was found that is not repaired (verify)",
	"an upgrade would change what boots (upgrade --check)",
	"the release has used up its tries, and another one runs (wait, --wait)",
}

// String says what a code means.
func (c ExitCode) String() string {
	if c < 0 || int(c) >= len(exitMeanings) {
		return fmt.Sprintf("exit code %d", int(c))
	}
	return exitMeanings[c]
}

// ExitCodes lists all codes with their meanings, a line each, for a help text.
func ExitCodes() string {
	var b strings.Builder
	for c, meaning := range exitMeanings {
		fmt.Fprintf(&b, "  %d  %s\n", c, meaning)
	}
	return b.String()
}
