package provision

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// Where systemd is not process 1, k3s has a script of OpenRC, or what is missing is in status.
func TestKubernetesWithoutSystemd(t *testing.T) {
	c := parse("k3s: {enabled: true, args: [\"--node-label a=b\"], env: {K3S_TOKEN: x}}\n")
	files := map[string]string{"sbin/init": "sysvinit", "usr/bin/k3s": "#!/bin/sh\n"}
	s, dir := newSystem(t, layout.RoleSystem, files)
	if problems := apply(t, s, c); !strings.Contains(problems, "k3s: the image has neither systemd nor OpenRC") {
		t.Errorf("sysvinit: %q", problems)
	}
	if _, err := os.Stat(filepath.Join(dir, "run/systemd/system")); err == nil {
		t.Error("sysvinit: there are units, and no systemd")
	}
	files["sbin/openrc-run"] = ""
	s, dir = newSystem(t, layout.RoleSystem, files)
	if problems := apply(t, s, c); problems != "" {
		t.Errorf("OpenRC: %q", problems)
	}
	script := get(t, dir, "etc/init.d/k3s")
	if !strings.Contains(script, `command_args="'server' '--node-label' 'a=b'"`) {
		t.Errorf("OpenRC: %s", script)
	}
	if out, err := exec.Command("sh", "-n", filepath.Join(dir, "etc/init.d/k3s")).CombinedOutput(); err != nil {
		t.Errorf("OpenRC: %v\n%s", err, out)
	}
	if to, err := os.Readlink(filepath.Join(dir, "etc/runlevels/default/k3s")); err != nil || to != "/etc/init.d/k3s" {
		t.Errorf("OpenRC: it is not enabled: %q, %v", to, err)
	}
}
