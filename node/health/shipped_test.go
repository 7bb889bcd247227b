package health

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
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

// programs puts systemctl and rc-status before those of the machine that tests. They read the folder's files: answer
// n is in out.n, what they end with in code.n, and the last one stays; what is in the file "always" comes instead.
func (a answers) programs(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for n, x := range a {
		text, code := x.(string), 0
		if message, fails := strings.CutPrefix(text, "exit 1: "); fails {
			text, code = message, 1
		}
		put(t, dir, fmt.Sprintf("out.%d", n), text)
		put(t, dir, fmt.Sprintf("code.%d", n), strconv.Itoa(code))
	}
	put(t, dir, "n", "0\n")
	script := `#!/bin/sh
case $1 in is-active) echo active; exit;; esac
cd "${0%/*}"
if [ -e always ]; then cat always; exit; fi
read n < n
code=$(cat code.$n)
if [ $code = 0 ]; then cat out.$n; else cat out.$n >&2; fi
if [ -e out.$((n+1)) ]; then echo $((n+1)) > n; fi
exit $code
`
	for _, name := range []string{"systemctl", "rc-status"} {
		put(t, dir, name, script)
		if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return dir
}

// A unit that has failed is a no. That systemctl or rc-status does not answer is not: it is asked again.
func TestUnits(t *testing.T) {
	const hiccup = "exit 1: Failed to connect to bus"
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
		"never an answer":      {systemd, answers{hiccup}, "?: exit status 1: Failed to connect to bus"},
		"OpenRC: none":         {"run/openrc/softlevel", answers{"exit 1: "}, ""},
		"OpenRC: crashed":      {"run/openrc/softlevel", answers{" sshd [ crashed ]\n"}, "no: failed: sshd"},
		"no init that has any": {"run/x", answers{""}, "no: neither systemd nor OpenRC"},
	} {
		t.Run(name, func(t *testing.T) {
			c.answers.programs(t)
			s := System{Root: t.TempDir(), Health: layout.Health{Checks: []string{layout.CheckUnits}}}
			put(t, s.Root, c.init, "")
			synctest.Test(t, func(t *testing.T) { judge(t, s, 10*time.Second, c.want) })
		})
	}
}

// What cannot be started is no answer.
func TestUnitsWithoutProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	s := System{Root: t.TempDir(), Health: layout.Health{Checks: []string{layout.CheckUnits}}}
	put(t, s.Root, "run/openrc/softlevel", "")
	synctest.Test(t, func(t *testing.T) {
		judge(t, s, 10*time.Second, "?: rc-status: exec: \"rc-status\": executable file not found")
	})
}

const route = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n" +
	"eth0 00000000 0202000A 0003 0 0 0 00000000 0 0 0\n"

// The network may take a while to come; that it never does is a no.
func TestNetwork(t *testing.T) {
	refused := errors.New("connection refused")
	for name, c := range map[string]struct {
		comes   time.Duration // when the route does; negative: never
		answers answers       // of the address; nil: none is asked
		want    string
	}{
		"a route":          {0, nil, ""},
		"it comes":         {20 * time.Second, nil, ""},
		"it never comes":   {-1, nil, "no: check network: there is no default route"},
		"it answers":       {0, answers{"hello"}, ""},
		"it is not found":  {0, answers{404}, ""}, // a server that says so can be reached
		"it answers later": {0, answers{refused, refused, 503, "hello"}, ""},
		"it never answers": {0, answers{refused}, "no: EOF"},
		"it is not well":   {0, answers{500}, "no: answers 500 Internal Server Error"},
	} {
		t.Run(name, func(t *testing.T) {
			s := System{Root: t.TempDir(), Health: layout.Health{Checks: []string{layout.CheckNetwork}}}
			if list := c.answers; list != nil {
				var asked atomic.Int32
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					list.replies(w, int(asked.Add(1))-1)
				}))
				defer server.Close()
				s.Health.Network = server.URL
			}
			synctest.Test(t, func(t *testing.T) {
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

// An image's registry is asked as an upgrade would ask it.
func TestNetworkAsksARegistry(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	name := "oci:" + strings.TrimPrefix(server.URL, "http://") + "/os:1"
	s := System{Root: t.TempDir(), Health: layout.Health{Network: name}}
	put(t, s.Root, "proc/net/route", route)
	var missing *notYet
	if err := s.network(t.Context()); !errors.As(err, &missing) || !strings.Contains(err.Error(), "/os:1") {
		t.Errorf("%v", err)
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
			dir := answers{""}.programs(t)
			s := System{
				Root:   t.TempDir(),
				Health: layout.Health{Checks: []string{layout.CheckUnits}, Soak: 95 * time.Second},
			}
			put(t, s.Root, "run/systemd/system/x", "")
			synctest.Test(t, func(t *testing.T) {
				fail := func() { put(t, dir, "always", "a.service loaded failed failed\n") }
				defer time.AfterFunc(c.fails, fail).Stop()
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
			failed := "a.service loaded failed failed\n"
			answers{failed, failed, failed, ""}.programs(t)
			s := System{
				Root: t.TempDir(), Patient: c.patient, Health: layout.Health{Checks: []string{layout.CheckUnits}},
			}
			put(t, s.Root, "run/systemd/system/x", "")
			synctest.Test(t, func(t *testing.T) { judge(t, s, 10*time.Second, c.want) })
		})
	}
}

// A name that this release does not know is never passed by.
func TestUnknownCheck(t *testing.T) {
	judge(t, System{Root: t.TempDir(), Health: layout.Health{Checks: []string{"disk"}}}, time.Minute,
		"no: this release has no such check")
}
