package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/node"
)

// outcomeError ends a check whose answer has been printed.
type outcomeError struct{ code api.ExitCode }

func (e *outcomeError) Error() string { return e.code.String() }

// checkUpgrade says what an upgrade would do. It takes no lock, for it changes nothing.
func (a *app) checkUpgrade(ctx context.Context, options func(*node.Machine) (node.CheckOptions, error)) error {
	if _, err := node.ReadBoot("/"); err != nil {
		return err
	}
	return a.privately(ctx, func() error {
		m, err := node.OpenReadOnly()
		if err != nil {
			return err
		}
		var c api.UpgradeCheck
		o, err := options(m)
		if err == nil {
			c, err = m.CheckUpgrade(ctx, o)
		}
		if err := errors.Join(err, m.Close()); err != nil {
			return err
		}
		if a.json {
			err = a.printJSON(c)
		} else {
			err = checkText(a.out, c)
		}
		switch {
		case err != nil:
			return err
		case c.Outcome == api.OutcomeRefused:
			return &outcomeError{api.ExitRefused}
		case c.Outcome == api.OutcomeUpgrade:
			return &outcomeError{api.ExitUpgrade}
		}
		return nil
	})
}

// checkText writes a check for people.
func checkText(w io.Writer, c api.UpgradeCheck) error {
	name := "The image"
	if c.Release != "" {
		name = strings.TrimSpace("Release " + c.Release + " " + parens(c.Version))
	}
	switch c.Outcome {
	case api.OutcomeNothing:
		fmt.Fprintf(w, "%s is there already: there is nothing to do.\n", name)
	case api.OutcomeRefused:
		fmt.Fprintf(w, "%s would be refused: %s.\n", name, c.Reason)
	default:
		what := "would boot next, on trial"
		if c.Recovery {
			what = "would be the recovery system"
		}
		fmt.Fprintf(w, "%s %s.\n", name, what)
	}
	for _, a := range c.Accepted {
		fmt.Fprintf(w, "The policy accepts it: %s.\n", a)
	}
	if c.Layers > 0 {
		fmt.Fprintf(w, "%d of %d layers are not on this node: %s to fetch%s, about %s to write, %s free.\n",
			c.Missing, c.Layers, megabytes(c.Fetch), byBlocks(c), megabytes(c.Write), megabytes(c.Free))
	}
	for _, id := range c.Removed {
		fmt.Fprintln(w, "Release", id, "would be removed.")
	}
	if c.Layers == 0 {
		return nil
	}
	if err := differences(w, "Labels", c.Labels); err != nil {
		return err
	}
	if c.PackagesUnknown != "" {
		_, err := fmt.Fprintf(w, "Packages are not known: %s.\n", c.PackagesUnknown)
		return err
	}
	return differences(w, "Packages", c.Packages)
}

// byBlocks says how a published release would be fetched.
func byBlocks(c api.UpgradeCheck) string {
	if c.Requests == 0 {
		return ""
	}
	return fmt.Sprintf(" in %d requests (%s of the blobs' data are here)", c.Requests, megabytes(c.Reuse))
}

// differences lists what differs from the release that runs.
func differences(w io.Writer, what string, all []api.Difference) error {
	if len(all) == 0 {
		_, err := fmt.Fprintf(w, "%s are those of the running release.\n", what)
		return err
	}
	fmt.Fprintf(w, "%s that differ from the running release:\n", what)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, d := range all {
		fmt.Fprintf(t, "    %s\t%s\t-> %s\n", d.Name, dash(d.Before), dash(d.After))
	}
	return t.Flush()
}

func parens(s string) string {
	if s == "" {
		return ""
	}
	return "(" + s + ")"
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
