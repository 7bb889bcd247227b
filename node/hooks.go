package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/node/provision"
)

// hooks run the stages that a cloud-config has around a command. Nil ones do nothing.
type hooks struct {
	m        *Machine
	command  string // install, upgrade or reset
	config   *config.Config
	env      map[string]string
	progress Progress
}

// before runs what comes before the command. Where the config is strict, a step that fails is an error, and the
// command must not change anything; else it is noted, here and in status.
func (h *hooks) before(ctx context.Context) error {
	if h == nil {
		return nil
	}
	stages, _ := config.Hooks(h.command)
	failed, err := h.run(ctx, stages)
	if err != nil {
		return err
	}
	if failed != nil && h.config.Strict() {
		return refuse(
			"the cloud-config is strict, and a stage before the %s failed: %v. "+
				"Nothing was changed: correct the stage, or remove strict", h.command, failed)
	}
	return nil
}

// after runs what comes after it.
func (h *hooks) after(ctx context.Context) error {
	if h == nil {
		return nil
	}
	_, stages := config.Hooks(h.command)
	failed, err := h.run(ctx, stages)
	if err != nil {
		return err
	}
	if failed != nil && h.config.Strict() {
		return fmt.Errorf("the %s is done, but the cloud-config is strict, and a stage after it failed: %w",
			h.command, failed)
	}
	return nil
}

// run runs stages and returns which steps failed. The error is that they could not be run at all.
func (h *hooks) run(ctx context.Context, stages []string) (failed, err error) {
	any := false
	for _, stage := range stages {
		any = any || len(provision.Steps(h.config, stage)) > 0
	}
	if !any {
		return nil, nil
	}
	s, err := provision.Open(h.m.Root, h.m.Boot)
	if err != nil {
		return nil, fmt.Errorf("stages around the %s: %w", h.command, err)
	}
	defer s.Close()
	s.Env = h.env
	problems, err := s.RunStage(ctx, h.config, stages...)
	if err := errors.Join(err, ctx.Err()); err != nil {
		return nil, fmt.Errorf("stages around the %s: %w", h.command, err)
	}
	var errs []error
	for _, p := range problems {
		h.progress.note("cloud-config: " + p.WithOutput())
		errs = append(errs, errors.New(p.WithOutput()))
	}
	return errors.Join(errs...), nil
}
