package unlock

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// consoles are the terminals on which the kernel says what it does: somebody may be at any of them.
type consoles struct {
	all []terminal
	// typed is what was typed so far, by the terminal.
	typed map[int][]byte
}

type terminal struct {
	file *os.File
	was  *unix.Termios // nil: it is no terminal
}

// maxTyped bounds what is taken for a key, in bytes.
const maxTyped = 1024

// openConsoles opens those that there are, with what is typed not shown.
func openConsoles() *consoles {
	b, _ := os.ReadFile("/sys/class/tty/console/active") // where it is not there, /dev/console is
	names := strings.Fields(string(b))
	if len(names) == 0 {
		names = []string{"console"}
	}
	var files []*os.File
	for _, name := range names {
		f, err := os.OpenFile(filepath.Join("/dev", name), os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			continue // such as tty0 of a machine without a screen
		}
		files = append(files, f)
	}
	return newConsoles(files...)
}

func newConsoles(files ...*os.File) *consoles {
	c := &consoles{typed: map[int][]byte{}}
	for _, f := range files {
		t := terminal{file: f}
		if was, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			t.was = was
			hidden := *was
			hidden.Lflag = hidden.Lflag&^(unix.ECHO|unix.ECHONL) | unix.ICANON
			hidden.Iflag |= unix.ICRNL
			// What was typed before it was asked for is no answer.
			_ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETSF, &hidden)
		}
		c.all = append(c.all, t)
	}
	return c
}

// close gives the terminals back as they were.
func (c *consoles) close() {
	for _, t := range c.all {
		if t.was != nil {
			_ = unix.IoctlSetTermios(int(t.file.Fd()), unix.TCSETSF, t.was)
		}
		t.file.Close()
	}
}

func (c *consoles) say(s string) {
	for _, t := range c.all {
		_, _ = t.file.WriteString(strings.ReplaceAll(s, "\n", "\r\n")) // a line that nobody holds
	}
}

// ask shows a question on all of them, and returns the first line that is typed on one of them.
func (c *consoles) ask(question string, patience time.Duration) (string, error) {
	c.say(question)
	end := time.Now().Add(patience)
	var fds []unix.PollFd
	for _, t := range c.all {
		fds = append(fds, unix.PollFd{Fd: int32(t.file.Fd()), Events: unix.POLLIN})
	}
	for {
		for i := range fds {
			if line, ok := c.line(int(fds[i].Fd)); ok {
				return line, nil
			}
		}
		left := time.Until(end)
		if left <= 0 {
			return "", fmt.Errorf("nobody answered within %v", patience)
		}
		if len(fds) == 0 {
			return "", errors.New("the machine has no console that can be read")
		}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return "", err
		}
		for i := range fds {
			if fds[i].Revents == 0 {
				continue
			}
			if err := c.read(int(fds[i].Fd)); err != nil {
				fds = slices.Delete(fds, i, i+1) // it is gone
				break
			}
		}
	}
}

// read takes what was typed on a terminal.
func (c *consoles) read(fd int) error {
	b := make([]byte, 256)
	n, err := unix.Read(fd, b)
	if err != nil || n <= 0 {
		return errors.Join(err, os.ErrClosed)
	}
	all := append(c.typed[fd], b[:n]...)
	c.typed[fd] = all[:min(len(all), maxTyped)]
	return nil
}

// line takes a line that was typed on a terminal.
func (c *consoles) line(fd int) (string, bool) {
	i := bytes.IndexAny(c.typed[fd], "\r\n")
	if i < 0 {
		return "", false
	}
	line := string(c.typed[fd][:i])
	c.typed[fd] = c.typed[fd][i+1:]
	return line, true
}
