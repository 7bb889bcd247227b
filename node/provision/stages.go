package provision

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/layout"
)

// RunStage runs stages, each with what comes before and after it, adds the problems to those of this boot, and returns
// them. A step that fails does not end the others.
func (s *System) RunStage(ctx context.Context, c *config.Config, stages ...string) ([]layout.Problem, error) {
	for _, stage := range stages {
		s.runStage(ctx, c, stage)
		if stage == "boot" || stage == "network" {
			s.remote = false // fetched with all others when the network is up
		}
	}
	if s.remote {
		s.check("ssh_authorized_keys", s.FetchKeys(ctx))
	}
	if len(s.problems) == 0 {
		return nil, nil
	}
	return s.problems, s.writeProblems(true)
}

func (s *System) runStage(ctx context.Context, c *config.Config, stage string) {
	for _, step := range Steps(c, stage) {
		why, err := s.skipped(ctx, step)
		if err != nil {
			s.stepProblem(step, "", err)
			continue
		}
		if why != "" {
			continue
		}
		s.runStep(ctx, c, step)
	}
}

// Analyzed is a step that would run, or why it would not.
type Analyzed struct {
	Stage, Name, Where string
	Skipped            string
}

// Analyze says what RunStage would do, and does nothing but ask the steps' conditions.
func (s *System) Analyze(ctx context.Context, c *config.Config, stage string) []Analyzed {
	var all []Analyzed
	for _, step := range Steps(c, stage) {
		a := Analyzed{Stage: step.Stage, Name: step.Name, Where: step.Pos.String()}
		why, err := s.skipped(ctx, step)
		if a.Skipped = why; err != nil {
			a.Skipped = err.Error()
		}
		all = append(all, a)
	}
	return all
}

// Steps returns the steps of a stage and of its .before and .after in the order in which they run. One that is after
// others comes when they have run; steps that wait for each other come in the order of the files.
func Steps(c *config.Config, stage string) []config.Step {
	var all []config.Step
	for _, name := range []string{stage + ".before", stage, stage + ".after"} {
		all = append(all, ordered(c.Steps(name))...)
	}
	return all
}

func ordered(steps []config.Step) []config.Step {
	names := map[string]bool{}
	for _, st := range steps {
		names[st.Name] = true
	}
	done := map[string]bool{}
	var out []config.Step
	for len(steps) > 0 {
		i := slices.IndexFunc(steps, func(st config.Step) bool {
			return !slices.ContainsFunc(st.Value.Key("after").Items(), func(v *config.Value) bool {
				name := v.Key("name").Text()
				return names[name] && !done[name] && name != st.Name
			})
		})
		i = max(i, 0)
		out, done[steps[i].Name] = append(out, steps[i]), true
		steps = slices.Delete(slices.Clone(steps), i, i+1)
	}
	return out
}

// stepProblem notes what of a step failed. What a program printed may be a secret: it is apart from the message, which
// the login prompt shows.
func (s *System) stepProblem(step config.Step, what string, err error) {
	path := fmt.Sprintf("stages.%s[%d]", step.Stage, step.Index)
	output := ""
	if o, ok := errors.AsType[*outputError](err); ok {
		err, output = o.error, o.output
	}
	message := err.Error()
	for _, before := range []string{what, step.Name} {
		if before != "" {
			message = before + ": " + message
		}
	}
	s.problem(step.Pos, path, "%s", message)
	p := &s.problems[len(s.problems)-1]
	p.Stage, p.Output = step.Stage, output
}
