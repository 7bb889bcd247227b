package efi

import "testing"

func TestFailures(t *testing.T) {
	for text, want := range map[string]int{"": 0, "x": 0, "-1": 0, "3": 3, "99": maxFailures} {
		if got := parseFailures(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}
