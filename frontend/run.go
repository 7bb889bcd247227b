package frontend

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/gateway/grpcclient"
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto" // BuildKit's codec

	"github.com/kairos-buildkit/kairos/frontend/bootlayer"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// Command is a build step of the frontend's that a program adds: what makes media is not
// imported here.
type Command func(ctx context.Context, args []string, log io.Writer) error

// Run is the program in the frontend's image: without arguments the gateway frontend, with
// boot-layer or release-layer a step that it adds to the build, and the commands by their names.
func Run(ctx context.Context, args []string, out io.Writer, commands map[string]Command) error {
	if len(args) == 0 {
		return runGateway(ctx)
	}
	switch args[0] {
	case stepBootLayer:
		return runLayer(args, out, bootlayer.Make)
	case stepRelease:
		return runLayer(args, out, bootlayer.MakeRelease)
	}
	run := commands[args[0]]
	if run == nil {
		return fmt.Errorf("%s: unknown command: this is the program of the Kairos build frontend, "+
			"BuildKit runs it for `# syntax=kairos`", args[0])
	}
	return run(ctx, args[1:], out)
}

// ReportedError is an error that BuildKit has got already, and shows.
type ReportedError struct{ error }

func runGateway(ctx context.Context) error {
	var built error
	err := grpcclient.RunFromEnvironment(ctx, func(ctx context.Context, c client.Client) (*client.Result, error) {
		res, err := Build(ctx, c)
		built = err
		return res, err
	})
	if built != nil {
		return ReportedError{built}
	}
	return err
}

// Main runs the program and returns its exit code.
func Main(ctx context.Context, args []string, errs io.Writer, commands map[string]Command) int {
	err := Run(ctx, args, errs, commands)
	if err == nil {
		return 0
	}
	if _, reported := err.(ReportedError); !reported {
		fmt.Fprintln(errs, "kairos-frontend:", err)
	}
	return 1
}

// runLayer adds a layer's files to the root file system in a folder.
func runLayer(args []string, out io.Writer, makeLayer func(fs.FS, bootlayer.Options) (*bootlayer.Layer, error)) error {
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(out)
	o := bootlayer.Options{Labels: map[string]string{}}
	dir := flags.String("root", "", "folder with the image's root")
	flags.StringVar(&o.Arch, "arch", "", "the image's architecture")
	flags.Func("label", "label of the image, key=value", func(s string) error {
		key, value, _ := strings.Cut(s, "=")
		o.Labels[key] = value
		return nil
	})
	keyFile := flags.String("secure-boot-key", "", "file with the key that signs boot files, where there is one")
	pcrKeyFile := flags.String("pcr-key", "", "file with the key that signs what a TPM measures, where there is one")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	var err error
	if o.Key, err = readKey(*keyFile); err != nil {
		return fmt.Errorf("secret %s: %w", layout.SecureBootSecret, err)
	}
	if o.PCRKey, err = readKey(*pcrKeyFile); err != nil {
		return fmt.Errorf("secret %s: %w", layout.PCRSecret, err)
	}
	// os.Root: no link in the image leads out of it.
	root, err := os.OpenRoot(*dir)
	if err != nil {
		return err
	}
	defer root.Close()
	layer, err := makeLayer(root.FS(), o)
	clear(o.Key)
	clear(o.PCRKey)
	if err != nil {
		return err
	}
	if layer.Kernel != "" {
		fmt.Fprintf(
			out,
			"kernel %s, %d files; the node agent is started by %s\n",
			layer.Kernel,
			len(layer.Files),
			layer.Starter,
		)
	}
	return layer.Write(root)
}

// readKey reads the private key, nil where the build has none.
func readKey(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := bounded.ReadAll(f, secureboot.MaxKeySize)
	if err == nil && len(b) == 0 {
		err = errors.New("it is empty")
	}
	return b, err
}
