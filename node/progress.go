package node

import (
	"io"
	"time"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/layout"
)

// Event says how far a command has come.
type Event = api.Event

// Progress is told about events. Nil is allowed. It may be called by several goroutines.
type Progress func(Event)

func (p Progress) step(step, object string) {
	if p != nil {
		p(Event{Step: step, Object: object})
	}
}

func (p Progress) note(text string) {
	if p != nil {
		p(Event{Step: api.StepNote, Text: text})
	}
}

// layer returns what reports how many bytes of a layer have been read.
func (p Progress) layer(name string, id layout.Digest) func(done int64) {
	return func(done int64) {
		if p != nil {
			p(Event{Step: api.StepLayer, Object: name, Layer: string(id), Done: done})
		}
	}
}

// countedReader reports now and then how much has been read, and that it was all.
type countedReader struct {
	r        io.Reader
	progress func(done int64)
	done     int64
	last     time.Time
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.done += int64(n)
	if err == io.EOF || time.Since(c.last) > 500*time.Millisecond {
		c.last = time.Now()
		c.progress(c.done)
	}
	return n, err
}
