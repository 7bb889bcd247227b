package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// cost is what some processes took, one after the other.
type cost struct {
	seconds float64 // on the clock
	cpu     float64 // seconds of user and system time
	memory  int64   // bytes, the most that one process had
	written int64   // bytes of file systems' blocks, its children's included
	down    int64   // bytes from servers, where that is measured
}

func (c cost) and(d cost) cost {
	return cost{
		c.seconds + d.seconds, c.cpu + d.cpu, max(c.memory, d.memory), c.written + d.written, c.down + d.down,
	}
}

// process runs a program and measures it. stdin may be a file's name.
func process(ctx context.Context, stdin string, args ...string) (cost, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if stdin != "" {
		f, err := os.Open(stdin)
		if err != nil {
			return cost{}, err
		}
		defer f.Close()
		cmd.Stdin = f
	}
	start := time.Now()
	err := cmd.Run()
	c := cost{seconds: time.Since(start).Seconds()}
	if err != nil {
		return c, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	s := cmd.ProcessState
	c.cpu = (s.UserTime() + s.SystemTime()).Seconds()
	usage := s.SysUsage().(*syscall.Rusage)
	c.memory, c.written = usage.Maxrss<<10, usage.Oublock*512
	return c, nil
}

// allocated returns the bytes of the disk that a file takes.
func allocated(path string) (int64, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return st.Blocks * 512, nil
}
