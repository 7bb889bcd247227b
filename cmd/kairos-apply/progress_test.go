package main

import (
	"strings"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/api"
)

// With -o json each event is a line that says what, how much, and how fast.
func TestProgressJSON(t *testing.T) {
	var out strings.Builder
	now := time.Unix(1_000_000, 0)
	p := &progress{w: &out, json: true, now: func() time.Time { return now }}
	for _, e := range []api.Event{
		{Step: api.StepLayer, Object: "abc (1 of 2)", Layer: "sha256:abc"},
		{Step: api.StepFetch, Object: "def", Done: 1000, Total: 9000}, // an earlier run has fetched 1000
		{Step: api.StepFetch, Object: "def", Done: 5000, Total: 9000},
		{Step: api.StepLayer, Object: "abc (1 of 2)", Layer: "sha256:abc", Done: 1000},
		{Step: api.StepLayer, Object: "abc (1 of 2)", Layer: "sha256:abc", Done: 5000}, // its total is not known
		{Step: api.StepRelease, Object: "r"},
		{Step: api.StepFetch, Object: "ghi", Done: 7000, Total: 8000}, // for no layer
		{Step: api.StepNote, Text: "a note"},
		{Step: api.StepError, Text: "it failed"},
	} {
		p.show(e)
		now = now.Add(2 * time.Second)
	}
	p.end()
	const want = `{"step":"layer","object":"abc (1 of 2)","layer":"sha256:abc"}
{"step":"fetch","object":"def","layer":"sha256:abc","bytes":1000,"total":9000}
{"step":"fetch","object":"def","layer":"sha256:abc","bytes":5000,"total":9000,"rate":2000}
{"step":"layer","object":"abc (1 of 2)","layer":"sha256:abc","bytes":1000}
{"step":"layer","object":"abc (1 of 2)","layer":"sha256:abc","bytes":5000,"rate":2000}
{"step":"release","object":"r"}
{"step":"fetch","object":"ghi","bytes":7000,"total":8000}
{"step":"note","text":"a note"}
{"step":"error","text":"it failed"}
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}
