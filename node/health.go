package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kairos-buildkit/kairos/layout"
)

// CheckResult is how one health check ended.
type CheckResult struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Output string `json:"output,omitempty"` // the last part of it
}

// health runs all health checks. The error is an *[UnhealthyError] if one of them says no,
// or has not ended when ctx does.
func (m *Machine) health(ctx context.Context) ([]CheckResult, error) {
	var results []CheckResult
	if why := m.bootComplete(ctx); why != "" {
		return results, &UnhealthyError{why}
	}
	checks, err := m.healthChecks()
	if err != nil {
		return nil, err
	}
	for _, path := range checks {
		r, why := m.runCheck(ctx, path)
		results = append(results, r)
		if why != "" {
			return results, &UnhealthyError{why}
		}
	}
	return results, nil
}

// healthChecks returns the executables of the image and of the node, ordered by name. One
// of the node takes the place of the image's one of the same name.
func (m *Machine) healthChecks() ([]string, error) {
	found := map[string]string{}
	for _, dir := range []string{layout.ImageHealthDir, layout.HealthDir} {
		entries, err := os.ReadDir(m.path(dir))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("health checks: %w", err)
		}
		for _, e := range entries {
			path := filepath.Join(m.path(dir), e.Name())
			info, err := os.Stat(path)
			if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
				delete(found, e.Name()) // such as a link to /dev/null: the image's check is off
				continue
			}
			found[e.Name()] = path
		}
	}
	var paths []string
	for _, name := range slices.Sorted(maps.Keys(found)) {
		paths = append(paths, found[name])
	}
	return paths, nil
}

func (m *Machine) runCheck(ctx context.Context, path string) (CheckResult, string) {
	r := CheckResult{Name: filepath.Base(path)}
	out := &tail{max: 8 << 10}
	c := exec.CommandContext(ctx, path)
	c.Stdout, c.Stderr = out, out
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// All that the check has started ends with it.
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = 2 * time.Second
	err := c.Run()
	r.Output, r.OK = out.String(), err == nil
	switch {
	case err == nil:
		return r, ""
	case ctx.Err() != nil:
		return r, fmt.Sprintf("health check %s did not end in time", r.Name)
	}
	return r, fmt.Sprintf("health check %s: %v", r.Name, err)
}

// bootComplete asks systemd, where that is the init, for the target that other packages hang
// their own checks on. It returns why the boot is not complete.
func (m *Machine) bootComplete(ctx context.Context) string {
	if m.Root != "/" {
		return ""
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return ""
	}
	const target = "boot-complete.target"
	for {
		out, err := exec.CommandContext(ctx, "systemctl", "is-active", target).Output()
		state := strings.TrimSpace(string(out))
		if err == nil {
			return ""
		}
		if state != "activating" {
			failed, _ := exec.CommandContext(ctx, "systemctl", "--failed", "--no-legend", "--plain").Output()
			return fmt.Sprintf("systemd has not reached %s (it is %s); failed units: %s", target, state, firstWords(failed))
		}
		select {
		case <-ctx.Done():
			return fmt.Sprintf("systemd did not reach %s in time", target)
		case <-time.After(time.Second):
		}
	}
}

func firstWords(lines []byte) string {
	var words []string
	for line := range strings.Lines(string(lines)) {
		if f := strings.Fields(line); len(f) > 0 {
			words = append(words, f[0])
		}
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

// tail keeps the last max bytes that are written to it.
type tail struct {
	b   bytes.Buffer
	max int
}

func (t *tail) Write(p []byte) (int, error) {
	t.b.Write(p)
	if over := t.b.Len() - t.max; over > 0 {
		t.b.Next(over)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.ToValidUTF8(t.b.String(), "?") }
