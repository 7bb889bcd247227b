package node

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// Status is what `kairos-apply status -o json` prints.
type Status struct {
	// Schema is 1. It grows when a field changes its meaning; new fields may come any time.
	Schema int `json:"schema"`
	// Mode is "installed" (booted from STATE), "recovery", "live" (from a medium) or "none"
	// (a container, or a system that Kairos did not start).
	Mode string `json:"mode"`
	// Firmware is "uefi" or "bios".
	Firmware string `json:"firmware,omitempty"`
	// Booted is the release that runs.
	Booted *Slot `json:"booted,omitempty"`
	// Active is the release that boots next, Passive the one that boots if that fails,
	// Recovery the one that boots if both fail.
	Active   *Slot `json:"active,omitempty"`
	Passive  *Slot `json:"passive,omitempty"`
	Recovery *Slot `json:"recovery,omitempty"`
	// Failed are releases that used up their tries. They stay until the next upgrade.
	Failed []Slot `json:"failed,omitempty"`
}

// Slot is one release on a node.
type Slot struct {
	Release string `json:"release"` // id
	Version string `json:"version,omitempty"`
	Image   string `json:"image,omitempty"`
	// Blessed says that the release has proved healthy. One that has not has tries.
	Blessed   bool `json:"blessed"`
	TriesLeft int  `json:"triesLeft"`
	TriesUsed int  `json:"triesUsed"`
	// Problem says why the release cannot boot, where that is known: its release.json or a
	// layer is missing or damaged.
	Problem string `json:"problem,omitempty"`
	// Failure is what was recorded when the release last failed.
	Failure *Failure `json:"failure,omitempty"`
}

// Failure is why a release failed.
type Failure struct {
	Reason string `json:"reason"`
	Log    string `json:"log,omitempty"` // last lines of the console
}

// Status tells what is booted and what the loader will do.
func (m *Machine) Status() (Status, error) {
	s := Status{Schema: 1, Mode: "live", Firmware: m.Boot.Firmware}
	switch m.Boot.Role {
	case layout.RoleSystem:
		s.Mode = "installed"
	case layout.RoleRecovery:
		s.Mode = "recovery"
	}
	if m.ESP == nil {
		s.Booted = slot(store.New(m.bootedStore()), layout.Entry{ID: m.Boot.Release})
		return s, nil
	}
	slots, err := m.ESP.Slots()
	if err != nil {
		return s, err
	}
	if slots.Recovery != "" && m.Recovery != nil {
		s.Recovery = slot(m.Recovery, layout.Entry{ID: slots.Recovery})
	}
	if s.Mode == "recovery" {
		s.Booted = s.Recovery
	}
	if m.State == nil { // it cannot be mounted
		return s, nil
	}
	if e, ok := slots.Active(); ok {
		s.Active = slot(m.State, e)
	}
	if e, ok := slots.Passive(); ok {
		s.Passive = slot(m.State, e)
	}
	for _, e := range slots.Failed() {
		s.Failed = append(s.Failed, *slot(m.State, e))
	}
	if s.Mode == "installed" {
		s.Booted = slot(m.State, layout.Entry{ID: m.Boot.Release, Counted: m.Boot.Trial})
	}
	for _, e := range slots.Entries {
		if s.Mode == "installed" && e.ID == m.Boot.Release {
			s.Booted = slot(m.State, e)
			break
		}
	}
	return s, nil
}

// bootedStore is the folder of the store that the running system was booted from.
func (m *Machine) bootedStore() string {
	if m.Boot.Role == layout.RoleLive {
		return filepath.Join(m.path(layout.RunStoreMount), layout.LiveRoot)
	}
	return m.path(layout.RunStoreMount)
}

func slot(s *store.Store, e layout.Entry) *Slot {
	out := &Slot{Release: e.ID, Blessed: !e.Counted, TriesLeft: int(e.Left), TriesUsed: int(e.Done)}
	r, err := s.Release(e.ID)
	if err != nil {
		out.Problem = err.Error()
		if errors.Is(err, fs.ErrNotExist) {
			out.Problem = "its release.json is missing"
		}
	}
	out.Version, out.Image = r.Version, r.Image
	for _, l := range r.Layers {
		if have, ok, err := s.Layer(l.DiffID); err == nil && (!ok || have != l) {
			out.Problem = fmt.Sprintf("its layer %s is missing or incomplete", l.DiffID)
		}
	}
	if b, err := os.ReadFile(filepath.Join(s.Dir(), layout.FailurePath(e.ID))); err == nil {
		reason, log, _ := strings.Cut(string(b), "\n")
		out.Failure = &Failure{Reason: printable(reason), Log: printable(log)}
	}
	return out
}

// printable removes what could change a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r == '�' {
			return -1
		}
		return r
	}, s)
}

// Text writes the status for people.
func (s Status) Text(w io.Writer) error {
	switch s.Mode {
	case "none":
		_, err := fmt.Fprintln(w, "Not a node: this system was not started by Kairos (a container, or another operating system).")
		return err
	case "live":
		if _, err := fmt.Fprintln(w, "Running from a live medium. Install this machine with `kairos-apply install`."); err != nil {
			return err
		}
	case "recovery":
		if _, err := fmt.Fprintln(w, "Running the recovery system. `kairos-apply reset` makes the node anew, `kairos-apply upgrade` installs a release that works."); err != nil {
			return err
		}
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "ROLE\tRELEASE\tVERSION\tSTATE\tIMAGE")
	row := func(role string, x *Slot) {
		if x != nil {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", role, x.Release, dash(x.Version), x.state(), dash(x.Image))
		}
	}
	row("booted", s.Booted)
	row("active", s.Active)
	row("passive", s.Passive)
	row("recovery", s.Recovery)
	for i := range s.Failed {
		row("failed", &s.Failed[i])
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, x := range s.Failed {
		reason := "no report: it stopped before it could write one"
		if x.Failure != nil {
			reason = x.Failure.Reason
		}
		if _, err := fmt.Fprintf(w, "\nRelease %s failed: %s\n", x.Release, reason); err != nil {
			return err
		}
		if x.Failure != nil && x.Failure.Log != "" {
			if _, err := fmt.Fprintf(w, "Last lines of its console:\n%s\n", indent(lastLines(x.Failure.Log, 20))); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x Slot) state() string {
	switch {
	case x.Problem != "":
		return x.Problem
	case x.Blessed:
		return "good"
	case x.TriesLeft == 0 && x.TriesUsed > 0:
		return fmt.Sprintf("failed, %d tries used", x.TriesUsed)
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
