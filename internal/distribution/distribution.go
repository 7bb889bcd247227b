// Package distribution runs the CNCF's registry, of which nothing is ours, on loopback, for tests and benchmarks, and
// reads its log of what it gave. scripts/registry builds it.
package distribution

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// Program is the path from the repository's root at which scripts/registry puts the registry.
const Program = "build/registry/registry"

// Registry is a running registry.
type Registry struct {
	Addr string // its address and port
	stop context.CancelFunc
	log  string
	done chan struct{}
	err  error // how it ended, when done is closed
}

// Start runs a registry whose content, configuration and log are in a folder. more are further lines of its
// configuration, https://distribution.github.io/distribution/about/configuration/. It ends with the context at the
// latest.
func Start(ctx context.Context, program, dir, more string) (*Registry, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	l.Close() // the registry takes a port's number alone
	config := filepath.Join(dir, "config.yml")
	text := "version: 0.1\nstorage: {filesystem: {rootdirectory: " + dir + "}}\nhttp: {addr: " + addr + "}\n" + more
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(config, []byte(text), 0o644)); err != nil {
		return nil, err
	}
	r := &Registry{Addr: addr, log: filepath.Join(dir, "log"), done: make(chan struct{})}
	log, err := os.Create(r.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ctx, r.stop = context.WithCancel(ctx)
	c := exec.CommandContext(ctx, program, "serve", config)
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		r.stop()
		return nil, fmt.Errorf("%w: scripts/registry builds it", err)
	}
	go func() {
		r.err = c.Wait()
		close(r.done)
	}()
	for {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return r, conn.Close()
		}
		select {
		case <-r.done:
			r.stop()
			return nil, fmt.Errorf("the registry ended, its log is %s: %w", r.log, r.err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stop ends the registry, and waits for it.
func (r *Registry) Stop() {
	r.stop()
	<-r.done
}

// Answer is what the registry gave to a GET request, as it says in its log.
type Answer struct {
	Path   string // of the URL, with its query
	Status int
	Bytes  int64 // of the body
}

// Answers returns the registry's answers to GET requests so far. A request gets into the log when it has ended, which
// may be a moment after the client has got all of the body.
func (r *Registry) Answers() ([]Answer, error) {
	log, err := os.ReadFile(r.log)
	if err != nil {
		return nil, err
	}
	return parse(log)
}

// An answer's line is in the Combined Log Format, https://httpd.apache.org/docs/2.4/logs.html#combined, between lines
// of other kinds.
var line = regexp.MustCompile(`(?m)^[^ ]+ - .*"GET ([^" ]*) HTTP/[^"]*" ([0-9]{3}) ([0-9]+) `)

func parse(log []byte) (answers []Answer, err error) {
	for _, m := range line.FindAllSubmatch(log, -1) {
		a := Answer{Path: string(m[1])}
		var statusErr, bytesErr error
		a.Status, statusErr = strconv.Atoi(string(m[2]))
		a.Bytes, bytesErr = strconv.ParseInt(string(m[3]), 10, 64)
		if err := errors.Join(statusErr, bytesErr); err != nil {
			return nil, fmt.Errorf("the registry's log: %q: %w", m[0], err)
		}
		answers = append(answers, a)
	}
	return answers, nil
}
