package vmtest

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
)

// A shell on a pipe stands in for one on a serial line.
func localShell(t *testing.T) *Console {
	t.Helper()
	cmd := exec.Command("sh")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
		w.Close()
	})
	c := NewConsole(in, out, io.Discard)
	if err := c.startShell(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRun(t *testing.T) {
	c := localShell(t)
	long := strings.Repeat("a line of a file that is longer than a terminal takes\n", 400)
	for _, tc := range []struct {
		name, command, output string
		exit                  int
	}{
		{"output", "echo hello", "hello\n", 0},
		{"no newline at the end", "printf hello", "hello", 0},
		{"nothing", "true", "", 0},
		{"exit code", "echo out; echo err >&2; exit 7", "out\nerr\n", 7},
		{"failing last command", "cd /; false", "", 1},
		{"several lines", "for i in 1 2\ndo\n  echo $i\ndone # a comment", "1\n2\n", 0},
		{"quotes", `echo "a'b" 'c"d' \$x`, "a'b c\"d $x\n", 0},
		{"bytes with a meaning on terminals", "printf '\\003\\004\\000\\377' | od -An -tx1", " 03 04 00 ff\n", 0},
		{"reads standard input", "cat", "", 0},
		{"long command, long output", "cat <<'E'\n" + long + "E", long, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			output, exit, err := c.run(tc.command, RunTimeout)
			if err != nil {
				t.Fatal(err)
			}
			if output != tc.output || exit != tc.exit {
				t.Errorf("got %q, exit %d; want %q, exit %d", output, exit, tc.output, tc.exit)
			}
		})
	}
}

// Kernel messages in the middle of a command's output do not end up in it.
func TestRunWithNoise(t *testing.T) {
	c := localShell(t)
	err := c.Send("(for i in 1 2 3 4 5 6 7 8; do echo '[   12.345678] usb 1-1: new device'; sleep 0.01; done) &\n")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		output, _, err := c.run("seq 2000", RunTimeout)
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Fields(output); len(lines) != 2000 || lines[1999] != "2000" {
			t.Fatalf("%d lines", len(lines))
		}
	}
}

func TestRunDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, w := io.Pipe() // a machine that says nothing
		defer w.Close()
		_, _, err := NewConsole(io.Discard, out, io.Discard).run("sleep 3", RunTimeout)
		if err == nil || !strings.Contains(err.Error(), "sleep 3") {
			t.Errorf("got %v", err)
		}
	})
}

func TestExpectSaysWhatItSaw(t *testing.T) { synctest.Test(t, expectSaysWhatItSaw) }

func expectSaysWhatItSaw(t *testing.T) {
	out, w := io.Pipe()
	c := NewConsole(io.Discard, out, io.Discard)
	io.WriteString(w, "\x1b[1;31mKernel panic\x1b[0m - not syncing\r\n")
	_, err := c.Expect(regexp.MustCompile("login:"), time.Minute)
	if err == nil || !strings.Contains(err.Error(), "Kernel panic - not syncing") {
		t.Errorf("deadline: got %v", err)
	}
	w.Close()
	_, err = c.Expect(regexp.MustCompile("login:"), time.Minute)
	if !errors.Is(err, ErrClosed) {
		t.Errorf("end of console: got %v", err)
	}
	m, err := c.Expect(regexp.MustCompile(`Kernel (\w+)`), 0)
	if err != nil || m[1] != "panic" {
		t.Errorf("earlier output: got %q, %v", m, err)
	}
}

// bootSector prints "boots" and then sends back what it receives, in 16-bit code for COM1.
func bootSector(t *testing.T) string {
	code := []byte{
		0x31, 0xC0, 0x8E, 0xD8, // xor ax,ax; mov ds,ax
		0xBE, 0x21, 0x7C, // mov si,text
		0xAC, 0x84, 0xC0, 0x74, 0x06, // print: lodsb; test al,al; jz echo
		0xBA, 0xF8, 0x03, 0xEE, 0xEB, 0xF5, // mov dx,3f8h; out dx,al; jmp print
		0xBA, 0xFD, 0x03, 0xEC, 0xA8, 0x01, 0x74, 0xF8, // echo: mov dx,3fdh; in al,dx; test al,1; jz echo
		0xBA, 0xF8, 0x03, 0xEC, 0xEE, 0xEB, 0xF1, // mov dx,3f8h; in al,dx; out dx,al; jmp echo
	}
	sector := make([]byte, 1<<20)
	copy(sector, code)
	copy(sector[len(code):], "boots\r\n\x00")
	sector[510], sector[511] = 0x55, 0xAA
	path := filepath.Join(t.TempDir(), "disk, with a comma.img")
	if err := os.WriteFile(path, sector, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMachine(t *testing.T) {
	disk := Overlay(t, qemu.Drive{Path: bootSector(t)})
	vm := Start(t, qemu.Machine{Firmware: qemu.BIOS, Memory: 64, Drives: []qemu.Drive{disk},
		Forwards: []qemu.Forward{{Guest: 21}, {Guest: 22}}})
	vm.Expect("boots\r\n", BootTimeout)
	vm.Send("hello")
	vm.Expect("hello", RunTimeout)
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(vm.Port(22)))) // QEMU answers
	if err != nil {
		t.Error(err)
	} else {
		conn.Close()
	}
	vm.Reset()
	vm.Expect("boots\r\n", BootTimeout)

	// Frozen and thawed, twice, it goes on where it was: there is nothing that it boots.
	frozen := vm.Freeze(t.TempDir())
	for range 2 {
		vm = Thaw(t, frozen)
		vm.Send("again")
		vm.Expect("again", RunTimeout)
		if out := vm.Output(); strings.Contains(out, "boots") {
			t.Errorf("a thawed machine has booted: %q", out)
		}
	}
	vm.PowerCut()
	if _, err := vm.Console.Expect(regexp.MustCompile("x"), time.Minute); !errors.Is(err, ErrClosed) {
		t.Errorf("after a power cut: got %v", err)
	}
}
