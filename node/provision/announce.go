package provision

import (
	"fmt"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/layout"
)

// runtimeUnits is where systemd finds units that this boot alone has.
const runtimeUnits = "/run/systemd/system/"

const agent = "/" + layout.ImageApply

// announce sees to what comes when the system is up: the stages boot, network and reconcile, and keys to fetch. With
// systemd there are units for what there is to do, and for no more; the scripts of other inits look for the files in
// layout.RunStages. Nothing that waits for a network is waited for.
func (s *System) announce(c *config.Config) error {
	units := map[string]string{}
	enable := func(name, target, text string) {
		units[name], units[target+".wants/"+name] = text, ""
	}
	if s.Metadata {
		if err := s.write(layout.RunMetadata, nil, 0o644); err != nil {
			return fmt.Errorf("announce the metadata: %w", err)
		}
	}
	for _, stage := range []string{"boot", "network", "reconcile"} {
		online := stage == "network" && (s.exists(layout.RunKeys) || stagesFetch(c, "boot") || s.Metadata)
		if len(Steps(c, stage)) == 0 && !online {
			continue
		}
		if err := s.write(layout.RunStages+"/"+stage, nil, 0o644); err != nil {
			return fmt.Errorf("announce the stage %s: %w", stage, err)
		}
		switch name := "kairos-" + stage + ".service"; stage {
		case "boot":
			enable(name, "multi-user.target", oneshot("the stage boot", "run-stage boot", "After=local-fs.target\n"))
		case "network":
			// Without default dependencies the target, and so the blessing, does not wait for it.
			enable(name, "multi-user.target", oneshot(
				"the stage network, and keys",
				"online",
				"DefaultDependencies=no\nAfter=basic.target network.target "+
					"kairos-boot.service\nConflicts=shutdown.target\nBefore=shutdown.target\n",
			))
		case "reconcile":
			units[name] = oneshot("the stage reconcile", "run-stage reconcile", "")
			enable(
				"kairos-reconcile.timer",
				"timers.target",
				"[Unit]\nDescription=Kairos: the stage reconcile, each hour\n\n"+
					"[Timer]\nOnBootSec=5min\nOnUnitInactiveSec=1h\n",
			)
		}
	}
	if !s.hasSystemd() {
		return nil
	}
	for name, text := range units {
		if err := s.unit(name, text); err != nil {
			return fmt.Errorf("announce a stage: %w", err)
		}
	}
	return nil
}

func oneshot(what, command, more string) string {
	return "[Unit]\nDescription=Kairos: " + what + " of the node's cloud-config\n" + more +
		"\n[Service]\nType=oneshot\nRemainAfterExit=" +
		map[bool]string{true: "no", false: "yes"}[command == "run-stage reconcile"] +
		"\nTimeoutStartSec=infinity\nExecStart=" + agent + " " + command +
		"\nStandardOutput=journal+console\nStandardError=journal+console\n"
}

// unit writes a unit, or where there is no text the link that enables the one of its name.
func (s *System) unit(name, text string) error {
	if text != "" {
		return s.write(runtimeUnits+name, []byte(text), 0o644)
	}
	d, base, err := s.root.Parent(runtimeUnits + name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Symlink(runtimeUnits+base, base)
}
