package report

import (
	"testing"
)

func TestLastLinesAreWhole(t *testing.T) {
	if got := string(lastLines([]byte("one\ntwo\nthree\n"), 8)); got != "three\n" {
		t.Errorf("%q", got)
	}
	if got := string(lastLines([]byte("one\n"), 8)); got != "one\n" {
		t.Errorf("%q", got)
	}
}
