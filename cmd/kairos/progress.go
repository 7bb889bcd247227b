package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// solveWithProgress runs a build and shows what it does.
func solveWithProgress(
	ctx context.Context,
	c *client.Client,
	solve client.SolveOpt,
	mode string,
	out io.Writer,
) (*client.SolveResponse, error) {
	display, err := progressui.NewDisplay(out, progressui.DisplayMode(mode))
	if err != nil {
		return nil, usagef("--progress %s: %w", mode, err)
	}
	var (
		resp    *client.SolveResponse
		watch   = bootLayerWatch{steps: map[digest.Digest]bool{}}
		updates = make(chan *client.SolveStatus)
		shown   = make(chan *client.SolveStatus)
	)
	eg := errgroup.Group{}
	eg.Go(func() error {
		var err error
		resp, err = c.Solve(ctx, nil, solve, updates)
		return err
	})
	eg.Go(func() error {
		defer close(shown)
		for s := range updates {
			watch.see(s)
			shown <- s
		}
		return nil
	})
	eg.Go(func() error {
		// Not the build's context: the display ends with the last update, which tells what
		// was cancelled.
		_, err := display.UpdateFrom(context.WithoutCancel(ctx), shown)
		return err
	})
	if err := eg.Wait(); err != nil {
		return nil, watch.explain(err)
	}
	return resp, nil
}

// bootLayerWatch finds the sentence with which the boot layer's step failed. For BuildKit it is
// a line in the log of a command that ended with 1; for the person it is the error.
type bootLayerWatch struct {
	steps    map[digest.Digest]bool
	sentence string
}

const frontendErrorPrefix = "kairos-frontend: "

func (w *bootLayerWatch) see(s *client.SolveStatus) {
	for _, v := range s.Vertexes {
		if strings.HasPrefix(v.Name, "[") &&
			(strings.HasSuffix(v.Name, "kairos] boot layer") || strings.HasSuffix(v.Name, "kairos] release")) {
			w.steps[v.Digest] = true
		}
	}
	for _, l := range s.Logs {
		if !w.steps[l.Vertex] {
			continue
		}
		for line := range strings.Lines(string(l.Data)) {
			if sentence, ok := strings.CutPrefix(strings.TrimSpace(line), frontendErrorPrefix); ok {
				w.sentence = sentence
			}
		}
	}
}

func (w *bootLayerWatch) explain(err error) error {
	if w.sentence == "" {
		return err
	}
	return fmt.Errorf("this image cannot boot: %w", errors.New(w.sentence))
}
