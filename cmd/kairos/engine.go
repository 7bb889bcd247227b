package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

// engineLoad streams an image into the Docker engine of this machine, as `docker load` does.
type engineLoad struct {
	*io.PipeWriter
	done chan error
	out  strings.Builder
}

// dialEngine finds the engine and begins to load. The first byte written starts the transfer.
func dialEngine() (*engineLoad, error) {
	host := os.Getenv("DOCKER_HOST")
	if host == "" {
		host = "unix:///var/run/docker.sock"
	}
	socket, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		return nil, usagef(
			"DOCKER_HOST=%s: the image can be loaded through a unix socket only: "+
				"use --output type=docker,dest=FILE and `docker load -i FILE`",
			host,
		)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	c := &http.Client{Transport: transport}
	ping, err := c.Get("http://docker/_ping")
	if err != nil {
		return nil, usagef(
			"no Docker engine at %s: start it, or write a file with --output type=docker,dest=FILE",
			socket,
		)
	}
	ping.Body.Close()

	r, w := io.Pipe()
	l := &engineLoad{PipeWriter: w, done: make(chan error, 1)}
	go func() {
		err := l.post(c, r)
		r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
		l.done <- err
	}()
	return l, nil
}

func (l *engineLoad) post(c *http.Client, body io.Reader) error {
	resp, err := c.Post("http://docker/images/load?quiet=1", "application/x-tar", body)
	if err != nil {
		return fmt.Errorf("load the image into the Docker engine: %w", err)
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var m struct {
			Stream  string `json:"stream"`
			Error   string `json:"error"`
			Message string `json:"message"`
		}
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("load the image into the Docker engine: %w", err)
		}
		if m.Error != "" || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("load the image into the Docker engine: %s%s", m.Error, m.Message)
		}
		l.out.WriteString(m.Stream)
	}
	return nil
}

// wait returns when the engine has the image.
func (l *engineLoad) wait(out io.Writer) error {
	if err := <-l.done; err != nil {
		return err
	}
	_, err := io.WriteString(out, l.out.String())
	return err
}
