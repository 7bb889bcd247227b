package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/node"
)

func (a *app) status() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what is booted, what boots next, and what failed",
		Long: `Show the releases of this node and their roles.

  booted    the release that runs
  active    boots next
  passive   boots when the active one has used up its tries
  recovery  boots when both have; a second line is a new one, which is started once before it takes that place
  failed    used up its tries; its report says why, as far as it could be written

With -o json the output is one object: schema (1), mode ("installed", "recovery", "live", or
"none" in a container), firmware ("uefi" or "bios"), secureBoot ("enforcing", "off"
or "setup"; none under BIOS), and booted, active, passive, recovery, where
there is one, and a list failed, each with release, version, image, blessed, triesLeft, triesUsed,
problem (why it cannot boot, where that is known) and failure ({reason, log} of the last time).
Of a sealed system trust has what a release needs to boot: mode ("required" or "warn"), threshold,
epoch, keys ({id, algorithm, name}) and, where the image asks for that, tpm ({state: "ready", "none" or "failed",
epoch, recovery: the lowest that the TPM holds}); and each release has its epoch, its signatures (the same, and
trusted where that key has signed it) and refused, why this system does not accept it. accepted are the
requirements of a policy that had accepted a release's image when it came: {scope, requirement, signers}.
recoveryTrial, where there is one, has the same of a new recovery system, and state ("pending", "running", "passed",
"failed"). problems lists what this boot could not do as configured, such as a persistent path that is not kept.

` + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.withStatus(c.Context(), a.printStatus) },
	}
	c.AddCommand(a.statusGet())
	return c
}

// withStatus does something with the node's status.
func (a *app) withStatus(ctx context.Context, do func(api.Status) error) error {
	_, err := node.ReadBoot("/")
	if errors.Is(err, node.ErrNotNode) {
		return do(api.Status{Schema: api.Schema, Mode: api.ModeNone})
	}
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	if s, err := node.Look("/"); err == nil {
		return do(s)
	}
	// Nothing has looked at all partitions yet, or one cannot be read: what mounts them says why.
	return a.privately(ctx, func() error {
		m, err := node.OpenReadOnly()
		if err != nil {
			return err
		}
		defer m.Close()
		s, err := m.Status()
		if err := errors.Join(err, m.Remember()); err != nil {
			return err
		}
		return do(s)
	})
}

func (a *app) statusGet() *cobra.Command {
	return &cobra.Command{
		Use:   "get KEY",
		Short: "Show one value of the status",
		Long: `Show the value of a key of the status, by its name in status -o json, such as booted.release or
failed[0].version. It fails where the status does not have the key. Beside these there are the Kairos
project's names boot (active_boot, passive_boot, recovery_boot, livecd_boot or unknown),
kairos.version and uuid (the machine's id).`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withStatus(c.Context(), func(s api.Status) error {
				id, _ := os.ReadFile("/etc/machine-id") // a container may have none
				v, err := statusValue(s, strings.TrimSpace(string(id)), args[0])
				if err != nil {
					return err
				}
				if text, ok := v.(string); ok && !a.json {
					_, err := fmt.Fprintln(a.out, text)
					return err
				}
				return a.printJSON(v)
			})
		},
	}
}

// statusValue finds a value in what status -o json prints.
func statusValue(s api.Status, machineID, key string) (any, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, err
	}
	all, _ := v.(map[string]any)
	all["boot"], all["uuid"] = bootWord(s), machineID
	if s.Booted != nil {
		all["kairos"] = map[string]any{"version": s.Booted.Version}
	}
	for part := range strings.SplitSeq(strings.ReplaceAll(key, "[", ".["), ".") {
		ok := false
		switch at := v.(type) {
		case map[string]any:
			v, ok = at[part]
		case []any:
			i, err := strconv.Atoi(strings.Trim(part, "[]"))
			if ok = err == nil && i >= 0 && i < len(at); ok {
				v = at[i]
			}
		}
		if !ok {
			return nil, fmt.Errorf("status get %s: the status does not have it: "+
				"`kairos-apply status -o json` shows all of it", key)
		}
	}
	return v, nil
}

// bootWord is the Kairos project's word for what was booted.
func bootWord(s api.Status) string {
	switch {
	case s.Mode == api.ModeLive:
		return "livecd_boot"
	case s.Mode == api.ModeRecovery:
		return "recovery_boot"
	case s.Mode != api.ModeInstalled:
		return "unknown"
	case s.Booted != nil && s.Passive != nil && s.Booted.Release == s.Passive.Release:
		return "passive_boot"
	}
	return "active_boot"
}

func (a *app) printStatus(s api.Status) error {
	if a.json {
		return a.printJSON(s)
	}
	return statusText(a.out, s)
}

func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
