package health

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kairos-buildkit/kairos/layout"
)

// Of a question, the nth answer; the last one stays.
type answers []any

func (a answers) at(n int) any { return a[min(n, len(a)-1)] }

func put(t testing.TB, root, name, text string) {
	t.Helper()
	name = filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// judge checks a system for at most so long, in a time of its own, and compares what comes out: "" healthy, "no: …"
// and a part of its reason, "?: …" what could not be asked.
func judge(t *testing.T, s System, within time.Duration, want string) (took time.Duration) {
	t.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	_, err := s.Check(ctx)
	got, no := "", (*Error)(nil)
	switch {
	case errors.As(err, &no):
		got = "no: " + no.Reason
	case err != nil:
		got = "?: " + err.Error()
	}
	if got != want && (want == "" || !strings.HasPrefix(got, want[:2]) || !strings.Contains(got, want[3:])) {
		t.Errorf("%q, want %q", got, want)
	}
	return time.Since(begin)
}

// A unit that has failed is a no. That systemctl or rc-status does not answer is not: it is asked again.
func TestUnits(t *testing.T) {
	hiccup := errors.New("Failed to connect to bus")
	const systemd = "run/systemd/system/x"
	for name, c := range map[string]struct {
		init    string // what it leaves below /run
		answers answers
		want    string
	}{
		"none": {systemd, answers{""}, ""},
		"failed": {systemd, answers{"a.service loaded failed failed A\nb.mount x\n"},
			"no: check units: failed: a.service, b.mount"},
		"hiccup, then none": {systemd, answers{hiccup, hiccup, ""}, ""},
		"hiccup, then failed": {systemd, answers{hiccup, "a.service loaded failed failed\n"},
			"no: failed: a.service"},
		"never an answer":      {systemd, answers{hiccup}, "?: Failed to connect to bus"},
		"OpenRC: none":         {"run/openrc/softlevel", answers{exitOne(t)}, ""},
		"OpenRC: crashed":      {"run/openrc/softlevel", answers{" sshd [ crashed ]\n"}, "no: failed: sshd"},
		"OpenRC: no answer":    {"run/openrc/softlevel", answers{errors.New("no such program")}, "?: rc-status"},
		"no init that has any": {"run/x", answers{""}, "no: neither systemd nor OpenRC"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := System{Root: t.TempDir(), Health: layout.Health{Checks: []string{layout.CheckUnits}}}
				put(t, s.Root, c.init, "")
				asked := 0
				s.output = func(_ context.Context, program string, args ...string) ([]byte, error) {
					if args[0] == "is-active" {
						return []byte("active\n"), nil
					}
					a := c.answers.at(asked)
					asked++
					if err, ok := a.(error); ok {
						return nil, err
					}
					return []byte(a.(string)), nil
				}
				judge(t, s, time.Minute, c.want)
			})
		})
	}
}

// exitOne is how a program ends that says no.
func exitOne(t *testing.T) error {
	err := exec.Command("false").Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return err
}

const route = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n" +
	"eth0 00000000 0202000A 0003 0 0 0 00000000 0 0 0\n"

// The network may take a while to come; that it never does is a no.
func TestNetwork(t *testing.T) {
	refused := errors.New("connection refused")
	for name, c := range map[string]struct {
		comes   time.Duration // when the route does; negative: never
		address string
		answers answers
		want    string
	}{
		"a route":          {0, "", nil, ""},
		"it comes":         {20 * time.Second, "", nil, ""},
		"it never comes":   {-1, "", nil, "no: check network: there is no default route"},
		"it answers":       {0, "https://a", answers{nil}, ""},
		"it answers later": {0, "https://a", answers{refused, refused, nil}, ""},
		"it never answers": {0, "https://a", answers{refused}, "no: check network: connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				s := System{
					Root:   t.TempDir(),
					Health: layout.Health{Checks: []string{layout.CheckNetwork}, Network: c.address},
					Answers: func(_ context.Context, address string) error {
						if address != c.address {
							t.Errorf("asked %q", address)
						}
						err, _ := c.answers.at(asked).(error)
						asked++
						return err
					},
				}
				if c.comes >= 0 {
					time.AfterFunc(c.comes, func() { put(t, s.Root, "proc/net/route", route) })
				}
				took := judge(t, s, time.Minute, c.want)
				if c.want == "" && took > c.comes+5*time.Second {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

func TestDefaultRoute(t *testing.T) {
	for name, c := range map[string]struct {
		file, text string
		want       bool
	}{
		"IPv4":          {"proc/net/route", route, true},
		"a net's route": {"proc/net/route", "eth0 0002000A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n", false},
		"IPv6": {"proc/net/ipv6_route", strings.Repeat("0", 32) + " 00 " + strings.Repeat("0", 32) +
			" 00 fe800000000000000000000000000002 00000400 00000001 00000000 00000003 eth0\n", true},
		"IPv6's own": {"proc/net/ipv6_route", strings.Repeat("0", 32) + " 00 " + strings.Repeat("0", 32) +
			" 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo\n", false},
		"none": {"proc/net/route", "", false},
	} {
		root := t.TempDir()
		put(t, root, c.file, c.text)
		if got := DefaultRoute(root); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A release has to stay healthy for its soak time.
func TestSoak(t *testing.T) {
	for name, c := range map[string]struct {
		fails  time.Duration // when a unit does
		within time.Duration
		want   string
		took   time.Duration
	}{
		"stays":                   {time.Hour, time.Hour, "", 95 * time.Second},
		"fails meanwhile":         {42 * time.Second, time.Hour, "no: failed: a.service", 50 * time.Second},
		"the deadline is earlier": {time.Hour, 30 * time.Second, "no: the deadline came", 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				s := System{
					Root:   t.TempDir(),
					Health: layout.Health{Checks: []string{layout.CheckUnits}, Soak: 95 * time.Second},
					output: func(_ context.Context, _ string, args ...string) ([]byte, error) {
						if args[0] != "is-active" && time.Since(begin) >= c.fails {
							return []byte("a.service loaded failed failed\n"), nil
						}
						return nil, nil
					},
				}
				put(t, s.Root, "run/systemd/system/x", "")
				if took := judge(t, s, c.within, c.want); took != c.took {
					t.Errorf("took %v, want %v", took, c.took)
				}
			})
		})
	}
}

// Where nobody says when the system is up, a no counts at the deadline only.
func TestPatient(t *testing.T) {
	for name, c := range map[string]struct {
		patient bool
		want    string
	}{
		"patient":     {true, ""},
		"not patient": {false, "no: failed: a.service"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				s := System{
					Root: t.TempDir(), Patient: c.patient, Health: layout.Health{Checks: []string{layout.CheckUnits}},
					output: func(_ context.Context, _ string, args ...string) ([]byte, error) {
						if asked++; args[0] != "is-active" && asked < 20 {
							return []byte("a.service loaded failed failed\n"), nil
						}
						return nil, nil
					},
				}
				put(t, s.Root, "run/systemd/system/x", "")
				judge(t, s, time.Minute, c.want)
			})
		})
	}
}

// A name that this release does not know is never passed by.
func TestUnknownCheck(t *testing.T) {
	judge(t, System{Root: t.TempDir(), Health: layout.Health{Checks: []string{"disk"}}}, time.Minute,
		"no: this release has no such check")
}
