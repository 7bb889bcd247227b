package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/datasource"
	"github.com/kairos-buildkit/kairos/node/health"
	"github.com/kairos-buildkit/kairos/node/provision"
)

// applyTimeout bounds what the config's own programs may take at the start, below what /init gives all of it.
const applyTimeout = 45 * time.Second

// ApplyConfig makes the node's cloud-config take effect. /init calls it when everything is mounted and no service
// runs yet. Each file and each key stands for itself: the error is what did not take effect, which status shows, too.
func ApplyConfig(root string) error {
	boot, err := ReadBoot(root)
	if err != nil {
		return err
	}
	from := sourcesOf(root, boot)
	problems, volume := from.attached(root)
	_, cloud := datasource.Detect(root)
	ask := cloud && !volume && from.dir != "" && !from.cloudInit
	return applyConfig(root, boot, problems, func(s *provision.System) { s.Volume, s.Metadata = volume, ask })
}

// applyConfig has all configs that are there take effect, and adds the problems of others to theirs.
func applyConfig(root string, boot layout.Boot, problems []*config.File, set func(*provision.System)) error {
	return provisioned(root, func(s *provision.System, _ *config.Config) ([]layout.Problem, error) {
		c := config.Merge(append(nodeFiles(root, boot), problems...)...)
		ctx, cancel := context.WithTimeout(context.Background(), applyTimeout)
		defer cancel()
		set(s)
		s.Passive = passive(root, boot)
		if boot.Role == layout.RoleRecovery {
			files, done := persistentFiles(boot)
			defer done()
			s.Persistent = files
		}
		problems, err := s.Apply(ctx, c)
		for i := range problems {
			problems[i].Output = "" // the error goes to the console and to the kernel's log, which users read
		}
		return problems, err
	})
}

// persistentFiles reads PERSISTENT without mounting it: in the recovery system it may be what is damaged.
func persistentFiles(b layout.Boot) (files fs.FS, done func()) {
	return unmounted(b.Devices["persistent"])
}

// unmounted reads a device's file system without mounting it; files is nil where there is none that can be read.
func unmounted(device string) (files fs.FS, done func()) {
	none := func() {}
	f, err := os.Open(device)
	if err != nil {
		return nil, none
	}
	// What was written through a mount is on the disk, but not in the device's own cache.
	err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	size, sizeErr := f.Seek(0, io.SeekEnd)
	if err == nil && sizeErr == nil {
		if v, ok := disk.OpenVolume(f, size); ok {
			if files, err = v.Open(); err == nil {
				return files, func() { f.Close() }
			}
		}
	}
	f.Close()
	return nil, none
}

// RunStage runs a stage of the node's cloud-config, with what comes before and after it. The error is what failed.
func RunStage(ctx context.Context, root, stage string) error {
	return provisioned(root, func(s *provision.System, c *config.Config) ([]layout.Problem, error) {
		return s.RunStage(ctx, c, stage)
	})
}

// AnalyzeStage says what RunStage would do.
func AnalyzeStage(ctx context.Context, root, stage string) (steps []provision.Analyzed, err error) {
	return steps, provisioned(root, func(s *provision.System, c *config.Config) ([]layout.Problem, error) {
		steps = s.Analyze(ctx, c, stage)
		return nil, nil
	})
}

// Online does what waits for a network: the cloud's metadata, where nothing else configures the node, the stage
// network, where the config has one, and then the keys.
func Online(ctx context.Context, root string) error {
	for !health.DefaultRoute(root) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	var err error
	if service, ok := datasource.Detect(root); ok {
		err = metadata(ctx, root, service.Fetch)
	}
	return errors.Join(err, RunStage(ctx, root, "network"), fetchKeys(ctx, root))
}

// fetchKeys fetches the public keys that the config names by an account, until it has them all or ctx ends.
func fetchKeys(ctx context.Context, root string) error {
	return provisioned(root, func(s *provision.System, c *config.Config) ([]layout.Problem, error) {
		wait := 2 * time.Second
		for {
			err := s.FetchKeys(ctx)
			if err == nil {
				return nil, nil
			}
			select {
			case <-ctx.Done():
				return nil, err
			case <-time.After(wait):
			}
			wait = min(2*wait, 5*time.Minute)
		}
	})
}

func provisioned(root string, do func(*provision.System, *config.Config) ([]layout.Problem, error)) error {
	boot, err := ReadBoot(root)
	if err != nil {
		return err
	}
	s, err := provision.Open(root, boot)
	if err != nil {
		return fmt.Errorf("cloud-config: %w", err)
	}
	defer s.Close()
	problems, err := do(s, NodeConfig(root, boot))
	errs := []error{err}
	for _, p := range problems {
		errs = append(errs, errors.New(p.WithOutput()))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cloud-config: what is right took effect, this did not:\n%w", err)
	}
	return nil
}

// passive says that the release which runs is not the one that boots next. Where that cannot be said, it is.
func passive(root string, b layout.Boot) bool {
	if root != "/" || b.Role != layout.RoleSystem {
		return false
	}
	state, err := readESP(b)
	if err != nil {
		return false
	}
	active, ok := state.Active()
	return ok && active.ID != b.Release
}

// configProblems reads what of the cloud-config did not take effect in this boot, or not yet.
func configProblems(root string) []layout.Problem {
	return append(problemsIn(root, layout.RunProblems), problemsIn(root, layout.RunKeysMissing)...)
}

func problemsIn(root, name string) []layout.Problem {
	b, err := os.ReadFile(filepath.Join(root, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var problems []layout.Problem
	if err == nil {
		problems, err = layout.ParseProblems(b)
	}
	if err != nil {
		return []layout.Problem{{Message: err.Error()}}
	}
	return problems
}

// statusProblems are the problems as status has them.
func (m *Machine) statusProblems() (out []api.ConfigProblem) {
	for _, p := range configProblems(m.Root) {
		message := layout.Problem{Message: p.Message, Output: p.Output}.WithOutput()
		out = append(out, api.ConfigProblem{
			Where: printable(p.Where), Path: printable(p.Path), Message: printable(message), Stage: p.Stage,
		})
	}
	return out
}

// failedStage says which stage failed, where the config is strict about it: then the release is not healthy.
func failedStage(root string, boot layout.Boot) string {
	if !NodeConfig(root, boot).Strict() {
		return ""
	}
	for _, p := range configProblems(root) {
		if p.Stage != "" && !config.IsHook(p.Stage) { // a command's own business
			return "the cloud-config is strict, and a stage failed: " + p.String()
		}
	}
	return ""
}
