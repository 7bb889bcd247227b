package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/kairos-buildkit/kairos/api"
)

// progress shows what a command is at: on a terminal one line that changes, else a line
// for each step; with -o json each event as a line.
type progress struct {
	mu   sync.Mutex
	w    io.Writer
	tty  bool
	json bool
	now  func() time.Time
	line int    // length of the unfinished line
	last string // step and object of the last line

	layer string // the one that is worked on; what is fetched meanwhile is for it

	// Of what is being counted:
	object string
	since  time.Time
	from   int64
}

func (a *app) progress() *progress {
	p := &progress{w: a.err, json: a.json, now: time.Now}
	if f, ok := a.err.(*os.File); ok {
		p.tty = term.IsTerminal(int(f.Fd()))
	}
	return p
}

var stepNames = map[string]string{
	api.StepFetch: "Fetching", api.StepLayer: "Converting layer", api.StepCopy: "Copying layer",
	api.StepRelease: "Recording release", api.StepBootFiles: "Reading boot files",
	api.StepActivate: "Activating release",
	api.StepCollect:  "Removing what is not needed", api.StepPartition: "Partitioning", api.StepWrite: "Writing",
}

func (p *progress) show(e api.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.json {
		switch e.Step {
		case api.StepLayer:
			p.layer = e.Layer
		case api.StepFetch:
			e.Layer = p.layer
		default:
			p.layer = ""
		}
		p.rate(&e)
		_ = json.NewEncoder(p.w).Encode(e) // nobody reads it: no reason to stop
		return
	}
	if e.Step == api.StepNote {
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
	switch {
	case e.Total > 0:
		text += fmt.Sprintf("  %d%%  %d of %d MB", e.Done*100/e.Total, e.Done/1_000_000, e.Total/1_000_000)
	case e.Done > 0:
		text += fmt.Sprintf("  %d MB", e.Done/1_000_000)
	}
	p.clear()
	fmt.Fprint(p.w, text)
	p.line = len(text)
}

// rate fills in how fast an object comes. Its first event is where counting begins: what an earlier
// run has fetched was not fetched in no time.
func (p *progress) rate(e *api.Event) {
	if e.Done == 0 && e.Total == 0 {
		return
	}
	now := p.now()
	if key := e.Step + " " + e.Object; key != p.object || e.Done < p.from {
		p.object, p.since, p.from = key, now, e.Done
		return
	}
	if took := now.Sub(p.since); took > 0 {
		e.Rate = int64(float64(e.Done-p.from) / took.Seconds())
	}
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
