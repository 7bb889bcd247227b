package provision

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// A config writes files into a user's home while he changes what is there, as fast as he can: nothing outside is
// touched, and he sees nothing that he may not read. Keys are tried in package accounts.
func TestFilesInAHome(t *testing.T) {
	uid := self()
	if uid == os.Geteuid() {
		t.Skip("it needs two users: root runs it, as .ci/run does")
	}
	s, dir := newSystem(t, layout.RoleSystem, map[string]string{"outside/file": "theirs\n"})
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // the user has to get there
		t.Fatal(err)
	}
	home, outside := filepath.Join(dir, "home/kairos"), filepath.Join(dir, "outside")
	for name, mode := range map[string]os.FileMode{outside: 0o755, filepath.Join(outside, "file"): 0o600} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	if problems := apply(t, s, parse("users: ["+userYAML()+"]\n")); problems != "" {
		t.Fatal(problems)
	}
	c := parse(`write_files:
  - {path: /home/kairos/conf/file, content: ours, owner: kairos:mine, permissions: 0666}
  - {path: /home/kairos/conf/file, content: more, append: true}
  - {path: /home/kairos/conf/deep/er/file, content: ours, owner: "kairos"}
stages:
  initramfs:
    - directories: [{path: /home/kairos/conf, permissions: 0777, ownerstring: kairos}]
      files: [{path: /home/kairos/conf/stage, content: ours, permissions: 0777}]
`)
	before := listing(t, outside)

	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, and whose it is, end with the goroutine
		syscall.RawSyscall(syscall.SYS_SETFSGID, uintptr(uid), 0, 0)
		syscall.RawSyscall(syscall.SYS_SETFSUID, uintptr(uid), 0, 0)
		conf, away := home+"/conf", home+"/away"
		rounds := 0
		for ; ; rounds++ {
			select {
			case <-stop:
				stopped <- rounds
				return
			default:
			}
			for _, name := range []string{"/file", "/stage", "/deep"} {
				unix.Unlink(conf + name)
				unix.Symlink(outside+"/file", conf+name)
				unix.Unlink(conf + name)
				unix.Link(outside+"/file", conf+name)
				unix.Unlink(conf + name)
				unix.Mkfifo(conf+name, 0o600)
				unix.Unlink(conf + name)
			}
			unix.Rename(conf, away)
			unix.Symlink(outside, conf)
			unix.Unlink(conf)
			unix.Symlink("../../outside", conf)
			unix.Unlink(conf)
			unix.Rename(away, conf)
		}
	}()
	for range 60 {
		apply(t, s, c)
	}
	close(stop)
	if <-stopped == 0 {
		t.Error("the user did nothing")
	}
	if after := listing(t, outside); after != before {
		t.Errorf("changed:\n%s\nwas:\n%s", after, before)
	}
	err := filepath.WalkDir(home, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if b, err := os.ReadFile(p); err != nil || strings.Contains(string(b), "theirs") {
			t.Errorf("%s: %q, %v", p, b, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// listing lists a folder with all that is in it: owner, mode, content.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		var data []byte
		if e.Type().IsRegular() {
			data, err = os.ReadFile(p)
		}
		fmt.Fprintf(&b, "%s %d %o %q\n", p, st.Uid, st.Mode, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
