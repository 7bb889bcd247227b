package vmtest

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// startShell makes a shell that has just been logged in to fit for run: no echo, no line
// editing, no prompt, a quiet kernel.
func (c *Console) startShell() error {
	// A shell that is still starting may drop input: ask until it answers.
	for range 10 {
		mark := token()
		if err := c.Send("\nexec sh\n"); err != nil {
			return err
		}
		time.Sleep(300 * time.Millisecond) // what is typed ahead of exec may go to the shell before it
		// The quotes keep the echo of the line from matching.
		if err := c.Send("stty -echo; PS1=; PS2=; dmesg -n 1 2>/dev/null; echo ready-''" + mark + "\n"); err != nil {
			return err
		}
		_, err := c.Expect(regexp.MustCompile("ready-"+mark), 20*time.Second)
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrClosed) {
			return err
		}
	}
	return fmt.Errorf("start a shell: no answer; the console shows:\n%s", c.Tail(30))
}

// run runs a shell command and returns its output, standard error included, and its exit
// code.
//
// The line carries other things too: kernel messages, systemd's status lines. So the output goes
// to a file, and the file comes over the line as base64 of its gzip between two marks, with gzip's
// CRC; a damaged copy is asked for again.
func (c *Console) run(command string, within time.Duration) (output string, exit int, err error) {
	deadline := time.Now().Add(within)
	mark := token()
	file := "/run/vmtest-" + mark
	if err := c.sendScript(fmt.Sprintf("( %s\n) </dev/null >%s 2>&1; echo done-''%s $?", command, file,
		mark)); err != nil {
		return "", 0, err
	}
	m, err := c.Expect(regexp.MustCompile("done-"+mark+` (\d+)`), time.Until(deadline))
	if err != nil {
		return "", 0, fmt.Errorf("run %q: %w", command, err)
	}
	exit, err = strconv.Atoi(m[1])
	if err != nil {
		return "", 0, err
	}
	for range 4 {
		out, err := c.fetch(file, time.Until(deadline))
		if err == nil {
			return out, exit, c.Send("rm -f " + file + "\n")
		}
		if !errors.Is(err, errDamaged) {
			return "", exit, fmt.Errorf("run %q: fetch its output: %w", command, err)
		}
	}
	return "", exit, fmt.Errorf("run %q: its output comes damaged over the console:\n%s", command, c.Tail(30))
}

var errDamaged = errors.New("output damaged on the console")

func (c *Console) fetch(file string, within time.Duration) (string, error) {
	mark := token()
	err := c.Send(fmt.Sprintf("echo begin-''%s; gzip -1 <%s | base64; echo end-''%s\n", mark, file, mark))
	if err != nil {
		return "", err
	}
	m, err := c.Expect(regexp.MustCompile("(?s)begin-"+mark+"(.*?)end-"+mark), within)
	if err != nil {
		return "", err
	}
	return decode(m[1])
}

// decode reads base64 of a gzip; gzip's CRC finds what other messages damaged.
func decode(s string) (string, error) {
	compressed, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		return "", errDamaged
	}
	z, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return "", errDamaged
	}
	out, err := io.ReadAll(z)
	if err != nil {
		return "", errDamaged
	}
	return string(out), nil
}

// sendScript evaluates a shell script of any length and content: a terminal line takes 4095
// bytes, and some bytes have a meaning there.
func (c *Console) sendScript(script string) error {
	encoded := base64.StdEncoding.EncodeToString([]byte(script))
	if err := c.Send("S=\n"); err != nil {
		return err
	}
	for len(encoded) > 0 {
		n := min(len(encoded), 1000)
		if err := c.Send("S=${S}" + encoded[:n] + "\n"); err != nil {
			return err
		}
		encoded = encoded[n:]
	}
	return c.Send("eval \"$(echo $S | base64 -d)\"\n")
}

func token() string {
	return fmt.Sprintf("%08x", rand.Uint32())
}
