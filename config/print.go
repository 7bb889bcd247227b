package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// MarshalJSON writes the report as `config check -o json` has it:
//
//	{"applied": [{"path": "hostname", "line": 2}],
//	 "ignored": [{"path": "upgrade.passive", "line": 7, "why": "…"}],
//	 "errors":  [{"path": "stages.boot[0].command", "line": 12, "message": "…", "suggestion": "…"}]}
//
// Where there is more than one file, each entry has its "file", too.
func (r Report) MarshalJSON() ([]byte, error) {
	type entry struct {
		Path       string  `json:"path"`
		File       string  `json:"file,omitempty"`
		Line       int     `json:"line"`
		Why        *string `json:"why,omitempty"`
		Message    *string `json:"message,omitempty"`
		Suggestion *string `json:"suggestion,omitempty"`
	}
	at := func(path string, p Pos) entry {
		e := entry{Path: path, Line: p.Line}
		if len(r.files) > 1 {
			e.File = p.File
		}
		return e
	}
	out := struct {
		Applied []entry `json:"applied"`
		Ignored []entry `json:"ignored"`
		Errors  []entry `json:"errors"`
	}{[]entry{}, []entry{}, []entry{}}
	for _, a := range r.Applied {
		out.Applied = append(out.Applied, at(a.Path, a.Pos))
	}
	for _, i := range r.Ignored {
		e := at(i.Path, i.Pos)
		e.Why = &i.Why
		out.Ignored = append(out.Ignored, e)
	}
	for _, x := range r.Errors {
		e := at(x.Path, x.Pos)
		e.Message, e.Suggestion = &x.Message, &x.Suggestion
		out.Errors = append(out.Errors, e)
	}
	return json.Marshal(out)
}

// Text returns the report for people: a line for each key that is ignored or wrong, and how many are applied.
func (r Report) Text() string {
	var b strings.Builder
	for _, e := range r.Errors {
		fmt.Fprintf(&b, "error: %s\n", e.Error())
	}
	for _, i := range r.Ignored {
		fmt.Fprintf(&b, "ignored: %s: %s: %s\n", i.Pos, i.Path, i.Why)
	}
	fmt.Fprintf(&b, "%d applied, %d ignored, %d wrong\n", len(r.Applied), len(r.Ignored), len(r.Errors))
	return b.String()
}

// Exit codes of `config check`.
const (
	ExitWrong   = 2 // something is wrong
	ExitIgnored = 3 // nothing is wrong, and something is ignored
)

// ExitCode is what `config check` ends with: 0 where everything is applied.
func (r Report) ExitCode() int {
	switch {
	case len(r.Errors) > 0:
		return ExitWrong
	case len(r.Ignored) > 0:
		return ExitIgnored
	}
	return 0
}

// sorted puts the entries in the order of files and lines.
func (r *Report) sort() {
	order := func(a, b Pos) int {
		return cmp.Or(
			cmp.Compare(slices.Index(r.files, a.File), slices.Index(r.files, b.File)),
			cmp.Compare(a.Line, b.Line),
		)
	}
	slices.SortStableFunc(r.Applied, func(a, b Applied) int { return order(a.Pos, b.Pos) })
	slices.SortStableFunc(r.Ignored, func(a, b Ignored) int { return order(a.Pos, b.Pos) })
	slices.SortStableFunc(r.Errors, func(a, b Error) int { return order(a.Pos, b.Pos) })
}
