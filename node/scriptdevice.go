package node

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// scriptPrefix is how a device begins that a program chooses.
const scriptPrefix = "script://"

// scriptDevice returns the disk that a program chooses: script://PROGRAM ARGUMENTS prints one path, and fails where
// there is none. Other devices are returned as they are. The program gets env beside this process's own variables.
func scriptDevice(ctx context.Context, device string, env map[string]string) (string, error) {
	line, ok := strings.CutPrefix(device, scriptPrefix)
	if !ok {
		return device, nil
	}
	words := strings.Fields(line)
	if len(words) == 0 {
		return "", refuse("device %s: it names no program", device)
	}
	var out, errOut bytes.Buffer
	c := exec.CommandContext(ctx, words[0], words[1:]...)
	c.Env = os.Environ()
	for k, v := range env {
		c.Env = append(c.Env, k+"="+v)
	}
	c.Stdout, c.Stderr = &out, &errOut
	if err := c.Run(); err != nil {
		return "", refuse("device %s: %v", device, fmt.Errorf("%w %s", err, bytes.TrimSpace(errOut.Bytes())))
	}
	path := strings.TrimSpace(out.String())
	if !strings.HasPrefix(path, "/dev/") || strings.ContainsAny(path, " \t\n") {
		return "", refuse("device %s: the program printed %q: want one path in /dev", device, path)
	}
	return path, nil
}
