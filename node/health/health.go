// Package health asks whether the running system is healthy: systemd, where that is the init, the shipped checks that
// are turned on, and the programs of the image and of the node.
//
// An answer is yes or no. What cannot be asked - a program that does not start, a directory that cannot be read, an
// init that does not answer - is neither: it is asked again until there is an answer or the time is over. What is not
// there yet, such as a network, is asked again too, and is a no in the end.
package health

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

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/layout"
)

// Error says that a system is not healthy.
type Error struct {
	Reason string
}

func (e *Error) Error() string { return "this boot is not healthy: " + e.Reason }

// notYet says what is missing that may still come: a no, if it has not come in time.
type notYet struct{ reason string }

func (e *notYet) Error() string { return e.reason }

// System is the system that is asked.
type System struct {
	Root string // "/" or, in tests, a directory
	// Again is the time between two questions that had no answer; 0: a second.
	Again time.Duration
	// Health says which of the shipped checks are asked, and for how long the system has to stay healthy.
	Health layout.Health
	// Patient has a no asked again, too, until the time is over: where nothing says when the system is up.
	Patient bool
	// AuthFiles are files with credentials for registries, in the format of Docker's config.json.
	AuthFiles []string
}

// Check runs all health checks. The error is an *[Error] if one of them says no, or has not ended when ctx does. Any
// other error says what could not be asked in all that time.
func (s System) Check(ctx context.Context) ([]api.Check, error) {
	for {
		results, err := s.stays(ctx)
		var no *Error
		if !s.Patient || !errors.As(err, &no) || !s.pause(ctx) {
			return results, err
		}
	}
}

// stays checks the system, and again when it has been healthy for as long as it has to be; what is shipped is checked
// meanwhile.
func (s System) stays(ctx context.Context) ([]api.Check, error) {
	results, err := s.once(ctx)
	if err != nil || s.Health.Soak == 0 {
		return results, err
	}
	for left := s.Health.Soak; left > 0; left -= soakStep {
		select {
		case <-ctx.Done():
		case <-time.After(min(left, soakStep)):
			results, err = s.shipped(ctx)
		}
		if no := (*Error)(nil); ctx.Err() != nil && !errors.As(err, &no) {
			return results, &Error{fmt.Sprintf("the deadline came %v before the end of the soak time", left)}
		}
		if err != nil {
			return results, err
		}
	}
	return s.once(ctx)
}

// soakStep is the time between two rounds of the shipped checks.
const soakStep = 10 * time.Second

// once runs all checks.
func (s System) once(ctx context.Context) ([]api.Check, error) {
	if err := s.ask(ctx, s.bootComplete); err != nil {
		return nil, err
	}
	results, err := s.shipped(ctx)
	if err != nil {
		return results, err
	}
	programs, err := s.programs(ctx)
	return append(results, programs...), err
}

// programs runs the programs of the image and of the node.
func (s System) programs(ctx context.Context) ([]api.Check, error) {
	var checks []string
	err := s.ask(ctx, func(context.Context) (err error) {
		checks, err = s.list()
		return err
	})
	if err != nil {
		return nil, err
	}
	var results []api.Check
	for _, path := range checks {
		var r api.Check
		err := s.ask(ctx, func(ctx context.Context) (err error) {
			r, err = run(ctx, path)
			return err
		})
		results = append(results, r)
		if err != nil {
			return results, err
		}
	}
	return results, nil
}

// ask asks until there is an answer: no error, or an *Error. What comes out in the end is what came out of the last
// question that the deadline has not interrupted.
func (s System) ask(ctx context.Context, question func(context.Context) error) error {
	var last error
	for {
		err := question(ctx)
		var no *Error
		if err == nil || errors.As(err, &no) {
			return err
		}
		if last != nil && ctx.Err() != nil {
			err = last
		}
		last = err
		if s.pause(ctx) {
			continue
		}
		var missing *notYet
		if errors.As(err, &missing) {
			return &Error{missing.reason}
		}
		return fmt.Errorf("health could not be asked in time: %w", err)
	}
}

// pause waits between two questions, and says whether there is time for another one.
func (s System) pause(ctx context.Context) bool {
	again := s.Again
	if again == 0 {
		again = time.Second
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(again):
		return ctx.Err() == nil
	}
}

// output returns the standard output of one of the init's programs. The error has the last line that it says of it.
func output(ctx context.Context, program string, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		lines := strings.Split(strings.TrimSpace(string(exit.Stderr)), "\n")
		err = fmt.Errorf("%w: %s", err, cut([]byte(lines[len(lines)-1])))
	}
	return out, err
}

// list returns the executables of the image and of the node, ordered by name. One
// of the node takes the place of the image's one of the same name.
func (s System) list() ([]string, error) {
	found := map[string]string{}
	for _, dir := range []string{layout.ImageHealthDir, layout.HealthDir} {
		dir = filepath.Join(s.Root, dir)
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("health checks: %w", err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			info, err := os.Stat(path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("health check %s: %w", e.Name(), err)
			}
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

func run(ctx context.Context, path string) (api.Check, error) {
	r := api.Check{Name: filepath.Base(path)}
	out := &tail{max: 8 << 10}
	c := exec.CommandContext(ctx, path)
	c.Stdout, c.Stderr = out, out
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// All that the check has started ends with it.
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = 2 * time.Second
	err := c.Run()
	r.Output, r.OK = out.String(), err == nil
	var exit *exec.ExitError
	switch {
	case err == nil:
		return r, nil
	case ctx.Err() != nil:
		return r, &Error{fmt.Sprintf("health check %s did not end in time", r.Name)}
	case errors.As(err, &exit), errors.Is(err, exec.ErrWaitDelay), errors.Is(err, syscall.ENOEXEC):
		return r, &Error{fmt.Sprintf("health check %s: %v", r.Name, err)}
	case errors.Is(err, fs.ErrNotExist): // its interpreter, for it is there itself
		return r, &Error{fmt.Sprintf("health check %s: %v: is its interpreter in the image?", r.Name, err)}
	}
	return r, fmt.Errorf("health check %s: %w", r.Name, err)
}

// bootComplete asks systemd, where that is the init, for the target that other packages hang
// their own checks on.
func (s System) bootComplete(ctx context.Context) error {
	if !s.systemd() {
		return nil
	}
	const target = "boot-complete.target"
	out, err := output(ctx, "systemctl", "is-active", target)
	state := strings.TrimSpace(string(out))
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return &Error{fmt.Sprintf("systemd did not reach %s in time", target)}
	case state == "inactive", state == "failed":
		failed, _ := output(ctx, "systemctl", "--failed", "--no-legend", "--plain")
		return &Error{
			fmt.Sprintf("systemd has not reached %s (it is %s); failed units: %s", target, state, firstWords(failed)),
		}
	case state == "activating", state == "reloading":
		return fmt.Errorf("systemd has not reached %s yet", target)
	}
	return fmt.Errorf("systemctl is-active %s: %q: %w", target, state, err)
}

// systemd says whether systemd is the init.
func (s System) systemd() bool {
	_, err := os.Stat(filepath.Join(s.Root, "run/systemd/system"))
	return err == nil
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
