package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"

	"github.com/kairos-buildkit/kairos/node"
)

// progress shows what a command is at: on a terminal one line that changes, else a line
// for each step. With -o json there is nothing but the result.
type progress struct {
	mu    sync.Mutex
	w     io.Writer
	tty   bool
	quiet bool
	line  int    // length of the unfinished line
	last  string // step and object of the last line
}

func (a *app) progress() *progress {
	p := &progress{w: a.err, quiet: a.json}
	if f, ok := a.err.(*os.File); ok {
		p.tty = term.IsTerminal(int(f.Fd()))
	}
	return p
}

var stepNames = map[string]string{
	"fetch": "Fetching", "layer": "Converting layer", "copy": "Copying layer", "release": "Recording release", "boot files": "Reading boot files",
	"activate": "Activating release", "collect": "Removing what is not needed", "partition": "Partitioning",
}

func (p *progress) show(e node.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.quiet {
		return
	}
	if e.Step == "note" {
		p.clear()
		fmt.Fprintln(p.w, "Note:", e.Text)
		return
	}
	name := stepNames[e.Step]
	if name == "" {
		name = e.Step
	}
	text := strings.TrimSpace(name + " " + e.Object)
	if !p.tty {
		if text != p.last {
			fmt.Fprintln(p.w, text)
			p.last = text
		}
		return
	}
	if e.Total > 0 {
		text += fmt.Sprintf("  %d%%  %d of %d MB", e.Done*100/e.Total, e.Done/1_000_000, e.Total/1_000_000)
	}
	p.clear()
	fmt.Fprint(p.w, text)
	p.line = len(text)
}

func (p *progress) clear() {
	if p.tty && p.line > 0 {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.line = 0
	}
}

// end ends the unfinished line.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}
