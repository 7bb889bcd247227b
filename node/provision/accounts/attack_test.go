package accounts

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A user changes what is in his home all the time, as fast as he can, while keys are written into it. Where root runs
// the test, the user is another one, with that user's rights on files.
func TestNothingOutsideOfAHomeIsTouched(t *testing.T) {
	uid, gid := self()
	s, dir := system(t, map[string]string{"outside/authorized_keys": "theirs\n", "outside/secret": "secret\n"})
	home, outside := filepath.Join(dir, "home/ops"), filepath.Join(dir, "outside")
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // the user has to get there
		t.Fatal(err)
	}
	u := User{Name: "ops", UID: &uid, PrimaryGroup: "mine", Keys: []string{"key-1"}}
	if err := s.Apply([]User{u}); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, filepath.Join(dir, "outside"), filepath.Join(dir, "etc"))

	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, and whose it is, end with the goroutine
		syscall.RawSyscall(syscall.SYS_SETFSGID, uintptr(gid), 0, 0)
		syscall.RawSyscall(syscall.SYS_SETFSUID, uintptr(uid), 0, 0)
		ssh, file, away := home+"/.ssh", home+"/.ssh/authorized_keys", home+"/away"
		rounds := 0
		for ; ; rounds++ {
			select {
			case <-stop:
				stopped <- rounds
				return
			default:
			}
			unix.Unlink(file)
			unix.Symlink(outside+"/authorized_keys", file)
			unix.Unlink(file)
			unix.Link(outside+"/secret", file)
			unix.Unlink(file)
			unix.Mkfifo(file, 0o600)
			unix.Unlink(file)
			unix.Rename(ssh, away)
			unix.Symlink(outside, ssh)
			unix.Unlink(ssh)
			unix.Symlink("../../etc", ssh)
			unix.Unlink(ssh)
			unix.Rename(away, ssh)
		}
	}()
	done := 0
	for range 300 {
		if err := s.Apply([]User{u}); err == nil {
			done++
		}
	}
	close(stop)
	rounds := <-stopped
	if rounds == 0 {
		t.Error("the user did nothing")
	}
	t.Logf("%d rounds of the user, %d of 300 writes took place", rounds, done)
	if after := snapshot(t, filepath.Join(dir, "outside"), filepath.Join(dir, "etc")); !slices.Equal(before, after) {
		t.Errorf("changed:\n%s\nwas:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	// What root wrote is in no place but the home.
	if b, err := os.ReadFile(filepath.Join(home, ".ssh/authorized_keys")); err == nil &&
		strings.Contains(string(b), "secret") {
		t.Errorf("the user was given what he may not read: %q", b)
	}
}

// snapshot lists the files of folders with their content and owner.
func snapshot(t *testing.T, dirs ...string) (lines []string) {
	t.Helper()
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			p := filepath.Join(dir, e.Name())
			var st unix.Stat_t
			if err := unix.Lstat(p, &st); err != nil {
				t.Fatal(err)
			}
			b, _ := os.ReadFile(p)
			lines = append(lines, p+" "+string(b)+" "+os.FileMode(st.Mode).String(), fmt.Sprint(st.Uid))
		}
	}
	return lines
}
