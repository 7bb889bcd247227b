package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/kairos-buildkit/kairos/api"
)

// statusText writes a status for people.
func statusText(w io.Writer, s api.Status) error {
	switch s.Mode {
	case api.ModeNone:
		_, err := fmt.Fprintln(w, "Not a node: this system was not started by Kairos "+
			"(a container, or another operating system).")
		return err
	case api.ModeLive:
		_, err := fmt.Fprintln(w, "Running from a live medium. Install this machine with `kairos-apply install`.")
		if err != nil {
			return err
		}
	case api.ModeRecovery:
		if _, err := fmt.Fprintln(w,
			"Running the recovery system. `kairos-apply reset` erases the node and starts it again, "+
				"`kairos-apply upgrade` installs a release that works."); err != nil {
			return err
		}
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "ROLE\tRELEASE\tVERSION\tSTATE\tIMAGE")
	row := func(role string, x *api.Slot) {
		if x != nil {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", role, x.Release, dash(x.Version), state(x), dash(x.Image))
		}
	}
	row("booted", s.Booted)
	row("active", s.Active)
	row("passive", s.Passive)
	row("recovery", s.Recovery)
	if r := s.RecoveryTrial; r != nil {
		fmt.Fprintf(t, "recovery\t%s\t%s\t%s\t%s\n", r.Release, dash(r.Version), trialState(r), dash(r.Image))
	}
	for i := range s.Failed {
		row("failed", &s.Failed[i])
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := errors.Join(secureBootText(w, s.SecureBoot), trustText(w, s), acceptedText(w, s)); err != nil {
		return err
	}
	for i, label := range slices.Sorted(maps.Keys(s.Encrypted)) {
		if i == 0 {
			fmt.Fprintln(w)
		}
		by := "opened by its " + s.Encrypted[label]
		if s.Encrypted[label] == "" {
			by = "not open"
		}
		if _, err := fmt.Fprintf(w, "%s is encrypted, and %s.\n", label, by); err != nil {
			return err
		}
	}
	for _, p := range s.Problems {
		if _, err := fmt.Fprintf(w, "\nProblem: %s\n", p); err != nil {
			return err
		}
	}
	if len(s.ConfigProblems) > 0 {
		fmt.Fprintln(w, "\nNot all of the cloud-config took effect:")
	}
	for _, p := range s.ConfigProblems {
		line := p.Message
		for _, before := range []string{p.Path, p.Where} {
			if before != "" {
				line = before + ": " + line
			}
		}
		if _, err := fmt.Fprintln(w, indent(line)); err != nil {
			return err
		}
	}
	if t := s.RecoveryTrial; t != nil && t.State == api.TrialFailed {
		reason, log := "it did not come up", ""
		if t.Failure != nil {
			reason, log = t.Failure.Reason, t.Failure.Log
		}
		fmt.Fprintf(w, "\nThe new recovery system %s was tried and failed; the old one stays: %s\n", t.Release, reason)
		if log != "" {
			fmt.Fprintf(w, "Last lines of its console:\n%s\n", indent(lastLines(log, 20)))
		}
	}
	failed := s.Failed
	for _, x := range []*api.Slot{s.Active, s.Passive} {
		if x != nil && x.Blessed && x.Failure != nil {
			failed = append([]api.Slot{*x}, failed...)
		}
	}
	for _, x := range failed {
		reason := "no report: it stopped before it could write one"
		if x.Failure != nil {
			reason = x.Failure.Reason
		}
		if _, err := fmt.Fprintf(w, "\nRelease %s failed: %s\n", x.Release, reason); err != nil {
			return err
		}
		if x.Failure != nil && x.Failure.Log != "" {
			_, err := fmt.Fprintf(w, "Last lines of its console:\n%s\n", indent(lastLines(x.Failure.Log, 20)))
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// secureBootText says what the firmware starts, where that is known.
func secureBootText(w io.Writer, state string) (err error) {
	says, ok := map[string]string{
		api.SecureBootEnforcing: "enforced: the firmware starts what its keys have signed, and nothing else",
		api.SecureBootOff:       "off: the firmware starts anything",
		api.SecureBootSetup:     "off, in setup mode: the firmware starts anything, and takes keys from whoever runs",
	}[state]
	if ok {
		_, err = fmt.Fprintf(w, "\nSecure Boot is %s.\n", says)
	}
	return err
}

// trustText says what a sealed system asks for, and who has signed what.
func trustText(w io.Writer, s api.Status) error {
	if s.Trust == nil {
		return nil
	}
	does := "Sealed: a release"
	if s.Trust.Mode == api.TrustWarn {
		does = "Sealed, and only warns: a release"
	}
	fmt.Fprintf(w, "\n%s needs %s of these keys and an epoch of %d or more.\n", does,
		plural(s.Trust.Threshold, "signature"), s.Trust.Epoch)
	if t := s.Trust.TPM; t != nil {
		fmt.Fprintln(w, tpmText(*t))
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, k := range s.Trust.Keys {
		fmt.Fprintf(t, "    %s\t%s %s\n", dash(k.Name), k.Algorithm, k.ID)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, x := range releases(s) {
		var by []string
		for _, k := range x.Signatures {
			name := k.Name
			if name == "" {
				name = k.Algorithm + " " + k.ID
			}
			if !k.Trusted {
				name += " (not verified)"
			}
			by = append(by, name)
		}
		line := fmt.Sprintf("%s, %s, epoch %d, is signed by %s", x.role, x.Release, x.Epoch, strings.Join(by, ", "))
		if len(by) == 0 {
			line = fmt.Sprintf("%s, %s, epoch %d, is not signed", x.role, x.Release, x.Epoch)
		}
		if x.Refused != "" {
			line += "\n    refused: " + x.Refused
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// acceptedText says which requirements of the node's policies had accepted the releases.
func acceptedText(w io.Writer, s api.Status) error {
	title := "\nThe policy has accepted:\n"
	for _, x := range releases(s) {
		for _, a := range x.Accepted {
			fmt.Fprint(w, title)
			title = ""
			if _, err := fmt.Fprintf(w, "%s, %s: %s\n", x.role, x.Release, a); err != nil {
				return err
			}
		}
	}
	return nil
}

// slot is a release in a role.
type slot struct {
	role string
	*api.Slot
}

// releases returns each release once, in its first role: the recovery system's is another copy, with signatures of its
// own.
func releases(s api.Status) (all []slot) {
	slots := []slot{{"booted", s.Booted}, {"active", s.Active}, {"passive", s.Passive}, {"recovery", s.Recovery}}
	for i := range s.Failed {
		slots = append(slots, slot{"failed", &s.Failed[i]})
	}
	seen := map[string]bool{}
	for _, x := range slots {
		if x.Slot != nil && (x.role == "recovery" || !seen[x.Release]) {
			seen[x.Release] = true
			all = append(all, x)
		}
	}
	return all
}

// tpmText says what the TPM asks for.
func tpmText(t api.TPM) string {
	switch t.State {
	case api.TPMNone:
		return "This machine has no TPM that holds a lowest epoch, too."
	case api.TPMFailed:
		return "The TPM is not asked: " + t.Problem
	}
	return fmt.Sprintf("This machine's TPM holds the epoch %d as the lowest, and %d as that of the recovery system.",
		t.Epoch, t.Recovery)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// trialState says in a word or two what a recovery system's trial has come to.
func trialState(t *api.RecoveryTrial) string {
	switch t.State {
	case api.TrialPending:
		return "new, starts next, once"
	case api.TrialRunning:
		return "on trial, runs now"
	case api.TrialPassed:
		return "new, came up, takes the old one's place"
	}
	return "new, did not come up"
}

// state says in a word or two how a release is.
func state(x *api.Slot) string {
	switch {
	case x.Problem != "":
		return x.Problem
	case x.TriesLeft == 0 && x.TriesUsed > 0:
		return fmt.Sprintf("failed, %d tries used", x.TriesUsed)
	case x.Blessed && x.Failure != nil:
		return fmt.Sprintf("was good and failed, %d tries left", x.TriesLeft)
	case x.Blessed:
		return "good"
	default:
		return fmt.Sprintf("on trial, %d of %d tries left", x.TriesLeft, x.TriesLeft+x.TriesUsed)
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func indent(s string) string { return "    " + strings.ReplaceAll(s, "\n", "\n    ") }
