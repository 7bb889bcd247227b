package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
)

// Console is one end of a serial line: what the machine prints is collected, and looked
// through by Expect from where the last Expect stopped.
type Console struct {
	in io.Writer

	mu     sync.Mutex
	more   chan struct{} // closed and replaced when output arrives or ends
	out    []byte        // everything printed so far
	seen   int           // Expect looks at out[seen:]
	closed bool
}

// NewConsole starts to collect out, and copies it to log too. Send writes to in.
func NewConsole(in io.Writer, out io.Reader, log io.Writer) *Console {
	c := &Console{in: in, more: make(chan struct{})}
	go c.collect(out, log)
	return c
}

func (c *Console) collect(out io.Reader, log io.Writer) {
	buf := make([]byte, 64<<10)
	for {
		n, err := out.Read(buf)
		log.Write(buf[:n])
		c.mu.Lock()
		c.out = append(c.out, buf[:n]...)
		c.closed = err != nil
		close(c.more)
		c.more = make(chan struct{})
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// ErrClosed says that the machine is gone: its console has ended.
var ErrClosed = errors.New("the console has ended")

// Expect waits for output that matches re and returns the match and its groups. Output up
// to the end of the match is done with. The error shows the last lines of the console.
func (c *Console) Expect(re *regexp.Regexp, within time.Duration) ([]string, error) {
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	for {
		c.mu.Lock()
		rest := c.out[c.seen:]
		if m := re.FindSubmatchIndex(rest); m != nil {
			var groups []string
			for i := 0; i < len(m); i += 2 {
				if m[i] < 0 {
					groups = append(groups, "")
					continue
				}
				groups = append(groups, string(rest[m[i]:m[i+1]]))
			}
			c.seen += m[1]
			c.mu.Unlock()
			return groups, nil
		}
		closed, more := c.closed, c.more
		c.mu.Unlock()
		if closed {
			return nil, fmt.Errorf("wait for %q: %w; it showed last:\n%s", re, ErrClosed, c.Tail(30))
		}
		select {
		case <-more:
		case <-timeout.C:
			return nil, fmt.Errorf("wait for %q: not seen within %v; the console shows:\n%s", re, within, c.Tail(30))
		}
	}
}

// Send types s.
func (c *Console) Send(s string) error {
	_, err := io.WriteString(c.in, s)
	if err != nil {
		return fmt.Errorf("write to the console: %w", err)
	}
	return nil
}

// Tail returns the last lines printed, without escape sequences.
func (c *Console) Tail(lines int) string {
	c.mu.Lock()
	out := c.out[max(0, len(c.out)-32<<10):]
	c.mu.Unlock()
	all := strings.Split(strings.TrimSpace(Plain(out)), "\n")
	return "  | " + strings.Join(all[max(0, len(all)-lines):], "\n  | ")
}

// Output returns everything printed so far, without escape sequences.
func (c *Console) Output() string {
	c.mu.Lock()
	out := bytes.Clone(c.out)
	c.mu.Unlock()
	return Plain(out)
}

// Escape sequences of ECMA-48: CSI, OSC, and the two-byte ones.
var escapes = regexp.MustCompile(
	"\x1b(?:\\[[0-9;?=>!]*[a-zA-Z]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[()][A-Z0-9]|[a-zA-Z0-9=>])",
)

// Plain removes escape sequences and carriage returns.
func Plain(b []byte) string {
	b = escapes.ReplaceAll(b, nil)
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, string(b))
}

// PowerOn starts a machine outside of a test, and copies its console to log. off ends it, as ctx does.
func PowerOn(ctx context.Context, m qemu.Machine, log io.Writer) (console *Console, off func(), err error) {
	cmd, err := m.Command(ctx)
	if err != nil {
		return nil, nil, err
	}
	out, outW := io.Pipe()
	cmd.Stdout, cmd.Stderr = outW, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	go func() {
		cmd.Wait()
		outW.Close()
	}()
	return NewConsole(io.Discard, out, log), func() { cmd.Process.Kill() }, nil
}
