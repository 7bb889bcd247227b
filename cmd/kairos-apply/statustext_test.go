package main

import (
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/api"
)

// A persistent path that is not kept is no secret of the kernel's log.
func TestStatusSaysWhatThisBootCouldNotDo(t *testing.T) {
	var b strings.Builder
	s := api.Status{Mode: api.ModeInstalled, Problems: []string{"/srv/x is not kept: no space left on device"}}
	if err := statusText(&b, s); err != nil {
		t.Fatal(err)
	}
	if want := "\nProblem: /srv/x is not kept: no space left on device\n"; !strings.HasSuffix(b.String(), want) {
		t.Errorf("%s\nwant at its end %q", b.String(), want)
	}
}
