package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Report says of each key of a config what becomes of it. Its JSON is what `config check -o json` prints.
type Report struct {
	Applied []Applied
	Ignored []Ignored
	Errors  []Error
	files   []string
}

// Applied is a key that takes effect.
type Applied struct {
	Path string
	Pos  Pos
}

// Ignored is a key that is right, and does nothing here. Why says what to do instead.
type Ignored struct {
	Path string
	Pos  Pos
	Why  string
	// CloudInit: it does something where the image has cloud-init.
	CloudInit bool
}

// Error is a key or value that is wrong, and is no part of the config. Suggestion is what to do, "" where Message says
// it.
type Error struct {
	Path       string
	Pos        Pos
	Message    string
	Suggestion string
}

func (e Error) Error() string {
	var b strings.Builder
	if at := e.Pos.String(); at != "" {
		b.WriteString(at + ": ")
	}
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Message)
	if e.Suggestion != "" {
		b.WriteString(": " + e.Suggestion)
	}
	return b.String()
}

// Err returns the errors as one, nil where there are none. It is for who must not go on with a config that is not
// right in whole.
func (r Report) Err() error {
	var errs []error
	for _, e := range r.Errors {
		errs = append(errs, e)
	}
	if errs == nil {
		return nil
	}
	return fmt.Errorf("cloud-config: %w", errors.Join(errs...))
}

// WithCloudInit returns the report for an image that has cloud-init: what cloud-init reads is applied.
func (r Report) WithCloudInit() Report {
	out := Report{Applied: slices.Clone(r.Applied), Errors: slices.Clone(r.Errors), files: r.files}
	for _, i := range r.Ignored {
		if i.CloudInit {
			out.Applied = append(out.Applied, Applied{i.Path, i.Pos})
		} else {
			out.Ignored = append(out.Ignored, i)
		}
	}
	out.sort()
	return out
}

func (r *Report) add(o Report) {
	r.Applied = append(r.Applied, o.Applied...)
	r.Ignored = append(r.Ignored, o.Ignored...)
	r.Errors = append(r.Errors, o.Errors...)
	r.files = append(r.files, o.files...)
}
