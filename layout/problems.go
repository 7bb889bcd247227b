package layout

import (
	"encoding/json"
	"fmt"
)

const (
	// RunProblems is a JSON file for root alone: what of the node's cloud-config did not take effect in this boot, see
	// [Problem].
	RunProblems = RunDir + "/config-problems.json"
	// maxProblems is the most that the file lists.
	maxProblems = 200
)

// Problem is a part of the cloud-config that did not take effect. What else there is in the config did.
type Problem struct {
	// Where is the file with its line, "" where the problem is no single one's.
	Where string `json:"where,omitempty"`
	// Path is the key, such as users[0].passwd or stages.boot[1].
	Path    string `json:"path,omitempty"`
	Message string `json:"message"`
	// Stage is the stage that failed, "" for what is no stage's.
	Stage string `json:"stage,omitempty"`
	// Output is the end of what a program of the config printed, at most 2,000 bytes. It may be a secret: who shows a
	// problem to others than root leaves it out.
	Output string `json:"output,omitempty"`
}

func (p Problem) String() string {
	s := p.Message
	if p.Path != "" {
		s = p.Path + ": " + s
	}
	if p.Where != "" {
		s = p.Where + ": " + s
	}
	return s
}

// WithOutput is String with what the program printed, for root.
func (p Problem) WithOutput() string {
	if p.Output == "" {
		return p.String()
	}
	return p.String() + ": " + p.Output
}

// ParseProblems reads RunProblems.
func ParseProblems(b []byte) ([]Problem, error) {
	var p []Problem
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", RunProblems, err)
	}
	return p, nil
}

// MarshalProblems returns the bytes of RunProblems: of too many the first ones.
func MarshalProblems(p []Problem) []byte {
	if len(p) > maxProblems {
		p = append(
			p[:maxProblems-1:maxProblems-1],
			Problem{Message: fmt.Sprintf("%d more problems", len(p)-maxProblems+1)},
		)
	}
	if p == nil {
		p = []Problem{}
	}
	b, _ := json.MarshalIndent(p, "", "  ") // strings cannot fail
	return append(b, '\n')
}
