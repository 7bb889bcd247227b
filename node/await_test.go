package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/layout"
)

// bareMachine is a live medium's machine in an empty folder, without disks.
func bareMachine(t *testing.T) *Machine {
	t.Helper()
	m := &Machine{Root: t.TempDir(), Boot: layout.Boot{Role: layout.RoleLive, Medium: "/dev/sr9"}}
	for _, dir := range []string{"sys/block", "run/udev"} {
		if err := os.MkdirAll(m.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// addDisk has the kernel show a disk.
func addDisk(t *testing.T, m *Machine, name string, sectors int) {
	t.Helper()
	dir := filepath.Join(m.path("sys/block"), name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Error(err)
	}
	for file, content := range map[string]string{"removable": "0", "ro": "0", "size": fmt.Sprint(sectors)} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content+"\n"), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// udevWorks has udev be busy, or done.
func udevWorks(t *testing.T, m *Machine, busy bool) {
	t.Helper()
	err := os.Remove(m.path("run/udev/queue"))
	if busy {
		err = os.WriteFile(m.path("run/udev/queue"), nil, 0o644)
	}
	if err != nil {
		t.Error(err)
	}
}

// The installation starts as early as it can: a disk whose driver comes late must not be missed, nor a smaller one be
// taken in its place.
func TestAutoWaitsForLateDisks(t *testing.T) {
	for name, test := range map[string]struct {
		later func(*testing.T, *Machine)
		want  string
		took  time.Duration
	}{
		"there from the start": {
			func(t *testing.T, m *Machine) { addDisk(t, m, "kvda", 1<<20) }, "/dev/kvda", diskQuiet,
		},
		"none for 20 s": {
			func(t *testing.T, m *Machine) { time.Sleep(20 * time.Second); addDisk(t, m, "kvda", 1<<20) },
			"/dev/kvda", 20*time.Second + diskQuiet,
		},
		"the largest while udev is busy": {
			func(t *testing.T, m *Machine) {
				udevWorks(t, m, true)
				addDisk(t, m, "kvda", 1<<20)
				time.Sleep(10 * time.Second)
				addDisk(t, m, "kvdb", 1<<24)
				udevWorks(t, m, false)
			}, "/dev/kvdb", 10*time.Second + diskQuiet,
		},
		"the largest a moment after the first": {
			func(t *testing.T, m *Machine) {
				addDisk(t, m, "kvda", 1<<20)
				time.Sleep(diskQuiet / 2)
				addDisk(t, m, "kvdb", 1<<24)
			}, "/dev/kvdb", diskQuiet/2 + diskQuiet,
		},
		"udev never ends": {
			func(t *testing.T, m *Machine) { udevWorks(t, m, true); addDisk(t, m, "kvda", 1<<20) },
			"/dev/kvda", diskTimeout,
		},
		"no disk at all": {func(*testing.T, *Machine) {}, "", diskTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			m := bareMachine(t)
			synctest.Test(t, func(t *testing.T) {
				var notes []string
				start := time.Now()
				go test.later(t, m)
				synctest.Wait()
				d, err := m.awaitDisk(t.Context(), "auto", true, func(e Event) { notes = append(notes, e.Text) })
				took := time.Since(start)
				if d.Path != test.want || (err != nil) != (test.want == "") {
					t.Errorf("got %v, %v", d, err)
				}
				if took < test.took-awaitStep || took > test.took+5*awaitStep {
					t.Errorf("it took %v, want %v", took, test.took)
				}
				if len(notes) != 1 || !strings.Contains(notes[0], "waiting for the machine's disks") {
					t.Errorf("a person is told %q", notes)
				}
			})
		})
	}
}

// Who types a wrong name is told so at once; a config's disk may be on its way.
func TestNamedDeviceIsWaitedForUnattended(t *testing.T) {
	m := bareMachine(t)
	synctest.Test(t, func(t *testing.T) {
		for unattended, want := range map[bool]time.Duration{false: 0, true: diskTimeout} {
			start := time.Now()
			if _, err := m.awaitDisk(t.Context(), "/dev/kvda", unattended, nil); err == nil {
				t.Error("a device is there that is not")
			}
			if took := time.Since(start); took != want {
				t.Errorf("unattended %v: it took %v, want %v", unattended, took, want)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.awaitDisk(ctx, "auto", true, nil); err != context.DeadlineExceeded {
			t.Errorf("interrupted: %v", err)
		}
	})
}

// Without a network only an installation waits that may need one.
func TestUnattendedWaitsForNoNetworkThatItDoesNotNeed(t *testing.T) {
	unit, err := os.ReadFile("units/kairos-install.service")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(unit)) {
		if !strings.HasPrefix(line, "#") && strings.Contains(line, "network") {
			t.Errorf("the unit waits for a network: %s", line)
		}
	}
	for text, want := range map[string]bool{
		"install: {auto: true}": false,
		"install: {auto: true, source: 'oci-archive:/run/medium/os.tar'}":            false,
		"install: {auto: true, source: 'registry.example/os:v2'}":                    true,
		"install: {auto: true, recovery-system: {source: 'oci:registry.example/o'}}": true,
		"stages: {boot: [{commands: [date]}]}":                                       false,
		"stages: {before-install: [{commands: [date]}]}":                             false,
	} {
		m := bareMachine(t)
		synctest.Test(t, func(t *testing.T) {
			c := config.Merge(config.Parse("test", []byte("#cloud-config\n"+text+"\n")))
			if err := c.Report().Err(); err != nil {
				t.Fatal(err)
			}
			i := c.Install()
			start := time.Now()
			if err := m.awaitNetwork(t.Context(), []string{i.Source, i.RecoverySource}, nil); err != nil {
				t.Error(err)
			}
			if took := time.Since(start); (took > 0) != want || took > networkTimeout+awaitStep {
				t.Errorf("%s: waited %v", text, took)
			}
		})
	}
}
