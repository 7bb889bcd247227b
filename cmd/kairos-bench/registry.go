package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kairos-buildkit/kairos/internal/distribution"
)

// peers are the programs that scripts/bench-peers builds.
const peers = "build/peers/"

// wire is a port on loopback behind which another one is. It counts what comes back from there.
type wire struct {
	addr string
	down atomic.Int64 // bytes of TCP connections from the server, headers included
	l    net.Listener
	to   string
	open sync.WaitGroup
}

// newWire returns a port before the one at an address.
func newWire(to string) (*wire, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &wire{addr: l.Addr().String(), l: l, to: to}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // it is closed
			}
			w.open.Go(func() { w.carry(c) })
		}
	}()
	return w, nil
}

func (w *wire) carry(c net.Conn) {
	defer c.Close()
	s, err := net.Dial("tcp", w.to)
	if err != nil {
		return // the client sees a connection that ends
	}
	defer s.Close()
	go func() {
		_, _ = io.Copy(s, c)
		s.Close()
	}()
	_, _ = io.Copy(io.MultiWriter(&downCounter{&w.down}, c), s)
}

// settled returns what came down so far: the clients have ended, and so have their connections.
func (w *wire) settled() int64 {
	w.open.Wait()
	return w.down.Load()
}

func (w *wire) Close() error { return w.l.Close() }

type downCounter struct{ n *atomic.Int64 }

func (c *downCounter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// startRegistry runs the CNCF's registry on loopback, with its content in dir, until stop.
func startRegistry(ctx context.Context, dir string) (w *wire, stop func(), err error) {
	r, err := distribution.Start(ctx, distribution.Program, dir, "")
	if err != nil {
		return nil, nil, err
	}
	if w, err = newWire(r.Addr); err != nil {
		r.Stop()
		return nil, nil, err
	}
	return w, func() { w.Close(); r.Stop() }, nil
}

// serveFiles serves a folder on loopback.
func serveFiles(dir string) (w *wire, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	s := &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }() // it ends with Close
	if w, err = newWire(l.Addr().String()); err != nil {
		s.Close()
		return nil, nil, err
	}
	return w, func() { w.Close(); s.Close() }, nil
}
