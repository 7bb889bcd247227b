// kairos turns Dockerfiles into images that boot, and images into media.
//
// Exit codes:
//
//	0    done
//	1    the build, the export or the machine failed
//	2    wrong use: flags, arguments, attributes, a destination that cannot be written
//	130  interrupted
//
// Called by the name kairos-frontend it is the build frontend: so one program serves as the
// command on the machine and as the image that `# syntax=kairos` names. Called by the name
// buildkitd it is `kairos builder`.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/appcontext"

	"github.com/kairos-buildkit/kairos/frontend"
	"github.com/kairos-buildkit/kairos/internal/mediumstep"
)

func main() {
	args := os.Args[1:]
	switch filepath.Base(os.Args[0]) {
	case filepath.Base(frontend.Binary):
		os.Exit(frontend.Main(appcontext.Context(), args, os.Stderr, mediumstep.Commands()))
	case daemonName:
		args = append([]string{"builder"}, args...)
	}
	os.Exit(program(args, streams{os.Stdin, os.Stdout, os.Stderr}))
}

// streams are the process's. Files stay files, so that a terminal is known as one.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// program is all of it but the process.
func program(args []string, s streams) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks for an orderly end; a second one ends the process at once.
	context.AfterFunc(ctx, stop)

	root := newRootCommand(s)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var usage usageError
	var reported reportedError
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(s.err, "kairos: interrupted")
		return exitInterrupted
	case errors.As(err, &reported):
		return int(reported)
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"):
		fmt.Fprintln(s.err, "kairos:", err)
		return exitUsage
	default:
		for _, source := range errdefs.Sources(err) {
			_ = source.Print(s.err)
		}
		fmt.Fprintln(s.err, "kairos:", err)
		if h := hint(err); h != "" {
			fmt.Fprintln(s.err, h)
		}
		return exitFailed
	}
}

// usageError is an error in what was typed.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }
