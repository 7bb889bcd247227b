package health

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/layout"
)

// shipped asks the shipped checks that are turned on.
func (s System) shipped(ctx context.Context) (results []api.Check, err error) {
	for _, name := range s.Health.Checks {
		r := api.Check{Name: name, OK: true}
		err := s.ask(ctx, func(ctx context.Context) error { return s.question(name)(ctx) })
		if err != nil {
			r.OK, r.Output = false, err.Error()
			var no *Error
			if errors.As(err, &no) {
				r.Output = no.Reason
				err = &Error{fmt.Sprintf("check %s: %s", name, no.Reason)}
			}
		}
		if results = append(results, r); err != nil {
			return results, err
		}
	}
	return results, nil
}

func (s System) question(name string) func(context.Context) error {
	switch name {
	case layout.CheckNetwork:
		return s.network
	case layout.CheckKubelet:
		return s.kubelet
	case layout.CheckUnits:
		return s.units
	}
	return func(context.Context) error {
		return &Error{"this release has no such check: it has " + strings.Join(layout.HealthChecks(), ", ")}
	}
}

// network wants a default route, and an answer where there is an address to ask.
func (s System) network(ctx context.Context) error {
	if !DefaultRoute(s.Root) {
		return &notYet{"there is no default route"}
	}
	if s.Health.Network == "" {
		return nil
	}
	if err := s.answers(ctx, s.Health.Network); err != nil {
		return &notYet{err.Error()}
	}
	return nil
}

// answerTimeout bounds one question to a server.
const answerTimeout = 30 * time.Second

// answers says whether an address answers: a URL, or with oci: an image's registry, as an upgrade would ask it.
func (s System) answers(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if ref, ok := strings.CutPrefix(address, "oci:"); ok {
		_, _, err := registry.Find(ctx, ref, registry.Options{AuthFiles: s.AuthFiles})
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Transport: transport(nil)}).Do(r)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("%s answers %s", address, answer.Status)
	}
	return nil
}

// transport is for one question: its connection ends with the answer. trust may be nil: what the system trusts.
func transport(trust *tls.Config) *http.Transport {
	return &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: trust, DisableKeepAlives: true}
}

// DefaultRoute says whether the system with this root has a default route.
func DefaultRoute(root string) bool {
	b, _ := os.ReadFile(filepath.Join(root, "proc/net/route"))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			return true
		}
	}
	b, _ = os.ReadFile(filepath.Join(root, "proc/net/ipv6_route"))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 9 && f[1] == "00" && f[9] != "lo" && strings.Trim(f[0], "0") == "" {
			return true
		}
	}
	return false
}

// units wants no unit that has failed: of systemd, or of OpenRC a service that has crashed.
func (s System) units(ctx context.Context) error {
	if s.systemd() {
		out, err := output(ctx, "systemctl", "list-units", "--state=failed", "--no-legend", "--plain")
		if err != nil {
			return fmt.Errorf("systemctl list-units: %w", err)
		}
		return failed(string(out))
	}
	if _, err := os.Stat(filepath.Join(s.Root, "run/openrc/softlevel")); err != nil {
		return &Error{"the image's init is neither systemd nor OpenRC: it has no units to ask"}
	}
	out, err := output(ctx, "rc-status", "--nocolor", "--crashed")
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 && len(out) == 0 {
		return nil // its way to say that there are none
	}
	if err != nil {
		return fmt.Errorf("rc-status: %w", err)
	}
	return failed(string(out))
}

// failed is an error where a list, one to a line, has an entry.
func failed(list string) error {
	if strings.TrimSpace(list) == "" {
		return nil
	}
	return &Error{"failed: " + firstWords([]byte(list))}
}
