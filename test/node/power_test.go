//go:build vm

package node

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	"github.com/kairos-buildkit/kairos/internal/vmtest/writelog"
)

// everyCut has each disk that a power cut may leave judged, and booted: for days. Otherwise it is a
// sample, the same in each run.
var everyCut = os.Getenv("KAIROS_TEST_POWER") == "all"

// TestPowerCut has a real kernel do what a node does, records each write and flush that reaches the disk,
// and rebuilds what the disk holds when the power goes at each flush: all that was flushed for sure, of the
// rest nothing or a part. Each such disk must boot; some do.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	image := func(name string) string {
		return derived(
			t,
			name,
			"RUN head -c 3000000 /dev/urandom > /usr/share/payload && echo "+name+" > /usr/share/version",
		)
	}
	second, third := image("power"), image("power3")
	bothFirmwares(t, func(t *testing.T, firmware qemu.Firmware) {
		reg := startRegistry(t)
		reg.push(t, second, "second")
		reg.push(t, third, "third")
		dir := scratch(t)
		frozen := installations[firmware].get(t, firmware)
		disk := filepath.Join(dir, "disk")
		if err := run("qemu-img", "convert", "-O", "raw", frozen.Machine.Drives[0].Path, disk); err != nil {
			t.Fatal(err)
		}
		logFile := filepath.Join(dir, "writes")
		commands := life(t, thaw(t, frozen.Logged(t, logFile)), reg)
		log := readLog(t, logFile)

		j := newJudge(t, firmware, disk)
		if err := j.partitions(); err != nil {
			t.Fatal(err)
		}
		learnAll(t, j, log, commands)
		needsFlushes(t, j, log, commands[0])
		// A machine takes a minute to boot: each firmware boots a disk of one command.
		sample := map[qemu.Firmware]string{qemu.UEFI: "upgrade", qemu.BIOS: "rollback"}
		for _, c := range commands {
			t.Run(c.name, func(t *testing.T) {
				cut(t, j, log, c, everyCut || c.name == sample[firmware])
			})
		}
	}, qemu.UEFI)
}

// learnAll brings a copy of the disk to where it is between the commands, to know the boot files.
func learnAll(t *testing.T, j *judge, log *writelog.Log, commands []recorded) {
	t.Helper()
	path := filepath.Join(j.scratch, "learn")
	if err := run("cp", "--sparse=always", j.disk.Name(), path); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	k := newJudge(t, j.firmware, path)
	k.known, k.parts = j.known, j.parts
	done := 0
	for _, c := range commands {
		for _, at := range []int{c.from, c.to} {
			if err := log.Apply(k, done, at); err != nil {
				t.Fatal(err)
			}
			done = at
			if err := k.learn(); err != nil {
				t.Fatalf("%s, operation %d: %v", c.name, at, err)
			}
		}
	}
}

// needsFlushes shows that the judge sees what is wrong where a command does not flush: it judges disks that
// have a random half of all that the command wrote.
func needsFlushes(t *testing.T, j *judge, log *writelog.Log, c recorded) {
	t.Helper()
	path := filepath.Join(j.scratch, "unflushed")
	defer os.Remove(path)
	for n := range uint64(5) {
		if err := run("cp", "--sparse=always", j.disk.Name(), path); err != nil {
			t.Fatal(err)
		}
		k := newJudge(t, j.firmware, path)
		k.known, k.blobs, k.inFlight = j.known, j.blobs, true
		if err := k.partitions(); err != nil {
			t.Fatal(err)
		}
		if err := log.Apply(k, 0, c.from); err != nil {
			t.Fatal(err)
		}
		if err := log.ApplyIndices(k, log.Subset(writelog.Interval{From: c.from, To: c.to}, n)); err != nil {
			t.Fatal(err)
		}
		if err := k.state(); err != nil {
			t.Logf("without flushes: %.300s", err)
			return
		}
	}
	t.Errorf("half of what %s writes, in no order, is judged good", c.name)
}

// cut judges the disks that a power cut in a command leaves. The judge's disk is brought from where it is
// to the command's end.
func cut(t *testing.T, j *judge, log *writelog.Log, c recorded, boot bool) {
	began := time.Now()
	if err := log.Apply(j, j.done, c.from); err != nil {
		t.Fatal(err)
	}
	j.oldBoot, j.newBoot, j.damaged = c.old, c.now, c.damaged
	intervals := log.Intervals(c.from, c.to)
	chosen := choose(j, log, intervals)
	judged, failed, booted := 0, 0, 0
	judgeNow := func(what string, i int) {
		judged++
		if err := j.state(); err != nil {
			t.Errorf(
				"power cut in %s, flush %d of %d (operation %d), %s: %v",
				c.name,
				i,
				len(intervals),
				intervals[i].From,
				what,
				err,
			)
			if failed++; failed == 5 {
				t.FailNow() // the others say the same
			}
			return
		}
		if boot && (everyCut || booted == 0 && i >= len(intervals)/2) {
			booted++
			t.Run(fmt.Sprintf("boot-%d", judged), func(t *testing.T) { bootAgain(t, j, c) })
		}
	}
	for i, v := range intervals {
		if chosen[i] {
			// A flush may be another file system's, in the middle of what is written to this one.
			j.inFlight = i > 0 || c.killed
			judgeNow("nothing after it", i)
			if some := log.Subset(v, 1); some != nil {
				if err := log.ApplyIndices(j, some); err != nil {
					t.Fatal(err)
				}
				j.inFlight = true
				judgeNow(fmt.Sprintf("and of the next ones %v", some), i)
			}
			j.inFlight = false
		}
		if err := log.Apply(j, v.From, v.To); err != nil {
			t.Fatal(err)
		}
	}
	j.done = c.to
	if c.damaged != "" {
		j.inFlight, j.damaged = true, ""
		if err := j.state(); err != nil {
			t.Errorf("after %s: %v", c.name, err)
		}
		j.inFlight = false
	}
	t.Logf(
		"%d flushes, %d disks judged, %d booted, %v",
		len(intervals),
		judged,
		booted,
		time.Since(began).Round(time.Second/10),
	)
}

// choose says which intervals are judged: in a sample, of those that change what boots more than of those
// that change what is kept for the next upgrade.
func choose(j *judge, log *writelog.Log, intervals []writelog.Interval) []bool {
	var boots, others []int
	for i, v := range intervals {
		list := &others
		for _, o := range log.Ops[v.From:v.To] {
			for _, p := range j.touched(o.Offset, o.Size) {
				if p.name == "efi" || p.name == "state" || p.name == "recovery" {
					list = &boots
				}
			}
		}
		*list = append(*list, i)
	}
	chosen := make([]bool, len(intervals))
	spread := func(list []int, n int) {
		if everyCut {
			n = len(list)
		}
		for k := range min(n, len(list)) {
			chosen[list[k*len(list)/min(n, len(list))]] = true
		}
	}
	spread(boots, 8)
	spread(others, 2)
	chosen[len(chosen)-1] = true // the end
	return chosen
}

// bootAgain boots the disk as it is now, and has the command done once more.
func bootAgain(t *testing.T, j *judge, c recorded) {
	d := vmtest.Overlay(t, qemu.Drive{Path: j.disk.Name(), Serial: "system"})
	m := &machine{
		VM: vmtest.Start(
			t,
			qemu.Machine{
				Firmware: j.firmware,
				Drives:   []qemu.Drive{d},
				Forwards: []qemu.Forward{{Guest: 22}},
			},
		),
		t: t,
	}
	// A new recovery system may be chosen for one start: it restarts the machine by itself.
	m.Expect(`kairos: booting [^\n]*\(system\)`, 10*time.Minute)
	m.up()
	m.blessed()
	s := m.status()
	if b := s.Booted; b == nil || b.Release != c.old && b.Release != c.now || b.Problem != "" || len(s.Failed) != 0 {
		t.Fatalf("after the power cut: %s", show(s))
	}
	if wrong := c.again(m); wrong != "" {
		t.Errorf("after the same command: %s", wrong)
	}
	m.PowerCut()
}

// readLog reads a log of writes that is complete.
func readLog(t *testing.T, path string) *writelog.Log {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	l, err := writelog.Read(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// scratch is a folder in memory where there is one: disks are copied and changed thousands of times.
func scratch(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/dev/shm"); err != nil {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "power")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
