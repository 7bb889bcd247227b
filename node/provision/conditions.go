package provision

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"runtime"

	"github.com/kairos-buildkit/kairos/config"
)

// skipped says why a step does not run here, "" where it does.
func (s *System) skipped(ctx context.Context, step config.Step) (string, error) {
	v := step.Value
	if s.vars == nil {
		s.vars = s.variables()
	}
	system, _ := s.vars["Values"].(map[string]any)["os"].(map[string]any)
	host, _ := os.Hostname()
	for _, m := range []struct{ key, has string }{
		{"node", host}, {"only_os", fmt.Sprint(system["name"])}, {"only_os_version", fmt.Sprint(system["version"])},
	} {
		pattern := v.Key(m.key).Text()
		if pattern == "" {
			continue
		}
		re, err := regexp.Compile("(?i)" + pattern)
		if err != nil {
			return "", fmt.Errorf("%s: %w", m.key, err)
		}
		if !re.MatchString(m.has) {
			return fmt.Sprintf("%s: %q does not match %q", m.key, m.has, pattern), nil
		}
	}
	if arch := v.Key("only_arch").Text(); arch != "" && arch != runtime.GOARCH && arch != machine[runtime.GOARCH] {
		return "only_arch: this is " + runtime.GOARCH, nil
	}
	if manager := v.Key("only_service_manager").Text(); manager != "" {
		has := "openrc"
		if s.hasSystemd() {
			has = "systemd"
		}
		if has != manager {
			return "only_service_manager: this is " + has, nil
		}
	}
	if why := s.filesMissing(v.Key("if_files")); why != "" {
		return why, nil
	}
	if line := v.Key("if").Text(); line != "" {
		if _, err := s.shell(ctx, s.rendered(line), nil); err != nil {
			if ctx.Err() != nil {
				return "", fmt.Errorf("if: %w", ctx.Err())
			}
			return "if: " + err.Error(), nil
		}
	}
	return "", nil
}

// machine is uname(1)'s word for an architecture.
var machine = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

func (s *System) filesMissing(v *config.Value) string {
	there := func(key string) (yes, no int) {
		for _, name := range v.Key(key).Strings() {
			if s.exists(name) {
				yes++
			} else {
				no++
			}
		}
		return yes, no
	}
	if _, no := there("all"); no > 0 {
		return "if_files: not all files are there"
	}
	if yes, no := there("any"); yes == 0 && no > 0 {
		return "if_files: none of the files is there"
	}
	if yes, _ := there("none"); yes > 0 {
		return "if_files: one of the files is there"
	}
	return ""
}
