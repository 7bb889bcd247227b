//go:build vm

package node

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/api"
)

// recorded is a command, or a restart, whose writes to the disk are in a log.
type recorded struct {
	name     string
	from, to int // operations in the log
	// old and now are the releases that were active before and after. What is wrong with the damaged one before
	// the command is mended at its end.
	old, now, damaged string
	// killed says that a command before it was killed, in the middle of what it wrote.
	killed bool
	// again repeats the command on a machine that was cut in it, which must succeed, and
	// says what the result is not as it should be.
	again func(m *machine) string
}

// life has a node live through all commands.
func life(t *testing.T, m *machine, reg *server) (all []recorded) {
	t.Helper()
	record := func(name string, do func(), again func(m *machine) string) recorded {
		r := recorded{name: name, from: m.Written(), old: m.status().Active.Release, again: again}
		began := time.Now()
		do()
		r.to = m.Written()
		r.now = m.status().Active.Release
		t.Logf("%s: %v, operations %d to %d", name, time.Since(began).Round(time.Second/10), r.from, r.to)
		all = append(all, r)
		return r
	}
	command := func(name, args, tag string, check func(m *machine, s api.Status) bool) recorded {
		do := func(m *machine) {
			if tag != "" {
				m.apply(args + " " + reg.ref(m, tag))
			} else {
				m.apply(args)
			}
		}
		return record(name, func() { do(m) }, func(m *machine) string {
			do(m)
			if s := m.status(); !check(m, s) {
				return show(s)
			}
			return ""
		})
	}
	active := func(id *string) func(*machine, api.Status) bool {
		return func(_ *machine, s api.Status) bool { return s.Active.Release == *id && s.Active.Problem == "" }
	}

	first := m.status().Booted.Release
	var second, third string
	began := time.Now()
	second = command("upgrade", "upgrade", "second", active(&second)).now
	took := time.Since(began)
	record("restart and bless", func() { m.reboot(); m.blessed() }, func(m *machine) string {
		m.apply("bless")
		if s := m.status(); s.Booted.Release != second || !s.Booted.Blessed {
			return show(s)
		}
		return ""
	})
	if everything {
		// Each start uses up a try, and a healthy one gives it back.
		record("restart and arm", func() { m.reboot(); m.blessed() }, func(m *machine) string {
			if s := m.status(); s.Booted.Release != second || !s.Booted.Blessed {
				return show(s)
			}
			return ""
		})
	}
	command("rollback", "rollback "+first, "", active(&first))

	if everything {
		// The layer that the second release alone has can only be fetched.
		m.Check(state + fmt.Sprintf(`for d in $(grep -o 'sha256:[0-9a-f]*' releases/%s/release.json | cut -d: -f2); `+
			`do grep -q $d releases/%s/release.json || find blobs -name $d.erofs -size +2M; done `+
			`| sort -u >/run/damage; [ $(wc -l </run/damage) = 1 ]; `+
			`dd if=/dev/zero of=$(cat /run/damage) bs=4096 count=1 seek=100 conv=notrunc; sync`, second, first))
		repair := func(m *machine) {
			reg.ref(m, "second") // says how the registry is reached
			m.apply("verify --repair")
		}
		record("repair", func() { repair(m) }, func(m *machine) string { repair(m); return "" })
		all[len(all)-1].damaged = second
	}

	// A command that is killed leaves something to collect.
	ref := reg.ref(m, "third")
	m.Check("systemd-run --unit=killed --no-block kairos-apply upgrade " + ref + " 2>&1")
	after := took/4 + rand.N(took*3/4)
	time.Sleep(after)
	t.Logf("killed after %v: %s", after.Round(time.Second/10), m.Check("systemctl kill -s KILL killed 2>&1 || true"))
	kept := m.status().Active.Release
	command("gc", "gc", "", func(m *machine, s api.Status) bool {
		left := m.Check("find /run/kairos/store/blobs -name '.tmp-*'")
		return s.Active.Release == kept && s.Active.Problem == "" && left == ""
	})
	all[len(all)-1].killed = true
	third = command("upgrade after a kill", "upgrade", "third", active(&third)).now
	command("upgrade of recovery", "upgrade --recovery", "third", func(_ *machine, s api.Status) bool {
		if t := s.RecoveryTrial; t != nil {
			return t.Release == third && t.State == api.TrialPending && t.Problem == "" && s.Recovery.Problem == ""
		}
		return s.Recovery != nil && s.Recovery.Release == third && s.Recovery.Problem == ""
	})
	if s := m.status(); second == first || third == second || s.RecoveryTrial == nil ||
		s.RecoveryTrial.Release != third || s.Recovery.Release != first {
		t.Fatalf("the commands did not do what they are for: %s", show(s))
	}
	m.PowerCut()
	return all
}
