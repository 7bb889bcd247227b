package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kairos-buildkit/kairos/builder"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/source"
)

type exportOptions struct {
	output, cloudConfig, cache, metadataFile string
	source                                   source.Options
	signatures                               signatureOptions
}

func newExportCommand(s streams) *cobra.Command {
	var o exportOptions
	c := &cobra.Command{
		Use:   "export --output type=iso,dest=FILE [flags] IMAGE",
		Short: "Put an image that exists on a bootable medium",
		Long: `Puts an image on a bootable medium, without a build. The image is one that was built with
"# syntax=kairos", or is derived from one in any way; or any other image with a kernel and an init;
or the release on another medium. The cloud-config of that one is not taken over.

An image that trusts keys (/usr/lib/kairos/trust.d) needs their signatures: those beside it in its registry
("kairos release --sign-key", "kairos sign"), those of --signature, or made here with --sign-key.

IMAGE is one of
` + source.Help + `Registries are reached as /etc/containerd/certs.d says, with the credentials of the Docker config.`,
		Example: `  kairos export -o type=iso,dest=os.iso registry.example/os:v1
  kairos export -o type=iso,dest=os.iso --cloud-config config.yaml oci-archive:os.tar
  kairos export -o type=iso,dest=site.iso --cloud-config site.yaml iso:os.iso`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef(
					"kairos export needs one argument: the image. See `kairos export --help` for where it can be",
				)
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return o.run(c.Context(), args[0], s) },
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVarP(&o.output, "output", "o", "", "the medium: type="+strings.Join(builder.Formats(), "|")+",dest=FILE")
	f.StringVar(&o.cloudConfig, "cloud-config", "", "cloud-config to put on the medium")
	f.StringVar(&o.metadataFile, "metadata-file", "", "write digests and sizes of the result to this file, as JSON")
	f.StringVar(&o.cache, "cache", "", "folder that keeps converted layers (default the builder's)")
	addSourceFlags(f, &o.source)
	o.signatures.flags(f)
	return c
}

// addSourceFlags adds the flags that say where and for what an image is looked for.
func addSourceFlags(f *pflag.FlagSet, o *source.Options) {
	f.StringVar(&o.Platform, "platform", "", "platform, where the image is for several (default this machine's)")
	f.StringVar(&o.Containerd, "containerd", "", "address of containerd (default /run/containerd/containerd.sock)")
	f.StringVar(&o.Namespace, "namespace", "", "namespace in containerd (default \"default\")")
	f.BoolVar(&o.Registry.Insecure, "insecure", false, "allow a registry without TLS")
}

func (o *exportOptions) run(ctx context.Context, name string, s streams) (err error) {
	if o.output == "" {
		return usagef("kairos export: where to? Add --output type=iso,dest=FILE")
	}
	out, err := parseOutput(o.output)
	if err != nil {
		return err
	}
	if o.cloudConfig != "" {
		text, err := configForMedium(o.cloudConfig)
		if err != nil {
			return usagef("%w", err)
		}
		out.attrs["cloud-config"] = text
	}
	if !isMedium(out.typ) {
		return usagef("kairos export makes media: use type=%s", strings.Join(builder.Formats(), ", type="))
	}
	m, err := builder.ParseMedium(out.typ, out.attrs)
	if err != nil {
		return usagef("--output type=%s: %w", out.typ, err)
	}
	if m.Epoch, err = epoch(); err != nil {
		return err
	}
	m.Cache = o.cache
	if m.Cache == "" {
		m.Cache = builder.LayersFolder(builder.DefaultRoot())
	}
	m.Progress = stepPrinter(s.err)
	m.Warn = func(sentence string) { fmt.Fprintln(s.err, "kairos: "+sentence) }

	o.source.MaxSize = m.MaxContent
	img, err := openImage(ctx, name, o.source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	if m.Signatures, err = o.signatures.source(img, s); err != nil {
		return err
	}

	m.BootSignatures = bootSignatures(img)

	to := &pendingFile{w: s.out, dest: "standard output"}
	if out.dest != "-" {
		if to, err = createPending(out.dest); err != nil {
			return usagef("--output dest=%s: %w", out.dest, err)
		}
		to.private = out.attrs["cloud-config"] != ""
	}
	set := outputSet{outputs: []output{out}, files: []*pendingFile{to}, loads: []*engineLoad{nil}}
	defer func() { err = errors.Join(err, set.discard()) }()
	if err := builder.WriteMedium(ctx, to, img.Image, m); err != nil {
		if werr := set.writeError(); werr != nil {
			return werr
		}
		return err
	}
	files, err := set.commit(s)
	if err != nil || o.metadataFile == "" {
		return err
	}
	b, err := json.MarshalIndent(map[string]any{
		"containerimage.config.digest": img.ConfigDigest,
		"kairos.files":                 files,
	}, "", "  ")
	if err != nil {
		return err
	}
	return writeFileAtomic(o.metadataFile, append(b, '\n'))
}

// openImage opens an image that a person has named.
func openImage(ctx context.Context, name string, o source.Options) (*source.Image, error) {
	ref, err := source.Parse(name)
	if err != nil {
		return nil, usageError{err}
	}
	img, err := source.Open(ctx, ref, o)
	var unfit *image.UnfitError
	if errors.As(err, &unfit) && unfit.Platform {
		return nil, fmt.Errorf("%w: choose with --platform", err)
	}
	return img, err
}

// epoch is SOURCE_DATE_EPOCH, or zero.
func epoch() (time.Time, error) {
	v := os.Getenv("SOURCE_DATE_EPOCH")
	if v == "" {
		return time.Time{}, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return time.Time{}, usagef("SOURCE_DATE_EPOCH=%s: want seconds since 1970", v)
	}
	return time.Unix(n, 0).UTC(), nil
}

// stepPrinter tells each step as it ends, with the time that it took.
func stepPrinter(w io.Writer) func(string) func(error) error {
	return func(step string) func(error) error {
		start := time.Now()
		return func(err error) error {
			if err == nil {
				fmt.Fprintf(w, "%s %.1fs\n", step, time.Since(start).Seconds())
			}
			return err
		}
	}
}
