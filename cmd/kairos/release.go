package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kairos-buildkit/kairos/builder"
	"github.com/kairos-buildkit/kairos/exporter"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/release"
)

type releaseOptions struct {
	cache, metadataFile string
	signKeys            []string
	ukiKey              string
	mirror              bool
	source              source.Options
}

func newReleaseCommand(s streams) *cobra.Command {
	var o releaseOptions
	c := &cobra.Command{
		Use:   "release [flags] REF, or release --copy [flags] SRC DST",
		Short: "Publish the release of an image beside it, so that nodes fetch what they boot",
		Long: `Converts the layers of a bootable image that is in a registry, whoever built it, once, and
pushes the release beside the image, as an artifact whose subject is the image's manifest.
docs/release-format.md describes it.

Layers that another release of the repository has are neither converted nor uploaded: those of its
highest tags are looked at, and believed as the images of the repository are. With --sign-key none is
believed: what gets signed was converted here. Registries are reached as
/etc/containerd/certs.d says, with the credentials of the Docker config.

--uki-key signs the boot files, UKI and systemd-boot, for Secure Boot, where the image has the key's certificate and
the label io.kairos.secure-boot-signatures=release, and was built without the key. The signatures go beside the
release; exporters and nodes put them on the files. With it nothing is believed either.

--copy mirrors an image with all its platforms, their releases and signatures, byte for byte: nothing is
converted, all digests stay, and what DST has is not sent again. SRC and DST are each in a registry, an
oci-layout:DIR[:TAG] or an oci-archive:FILE[:TAG], which is how they get to where no network is:
"kairos-apply upgrade oci-archive:FILE" takes the release from there.`,
		Example: `  kairos release registry.example/os:v1
  kairos release --sign-key release.key registry.example/os:v1
  kairos release --sign-key release.key --uki-key db.key registry.example/os:v1
  kairos release --platform linux/arm64 registry.example/os:v1
  kairos release --copy registry.example/os:v1 mirror.example/os:v1
  kairos release --copy registry.example/os:v1 oci-archive:os-v1.tar:v1`,
		Args: func(c *cobra.Command, args []string) error {
			if o.mirror {
				if len(args) != 2 {
					return usagef("kairos release --copy needs two arguments: from where, and to where")
				}
				if len(o.signKeys) > 0 || o.ukiKey != "" || o.metadataFile != "" || o.cache != "" {
					return usagef("--copy makes nothing: it goes with --platform, --hosts-dir and --insecure")
				}
				return nil
			}
			if len(args) != 1 {
				return usagef("kairos release needs one argument: the image, such as registry.example/os:v1")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if o.mirror {
				return o.copy(c.Context(), args[0], args[1], s)
			}
			return o.run(c.Context(), args[0], s)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringArrayVar(&o.signKeys, "sign-key", nil,
		"sign the release with the private key in this file, - for standard input, or a token's pkcs11:URI; "+
			"may be repeated")
	f.StringVar(&o.ukiKey, "uki-key", "",
		"sign the boot files with the private RSA key in this file, - for standard input, or a token's pkcs11:URI")
	f.BoolVar(&o.mirror, "copy", false, "copy an image and its releases from SRC to DST")
	f.StringVar(&o.metadataFile, "metadata-file", "", "write digests and sizes of the result to this file, as JSON")
	f.StringVar(&o.cache, "cache", "", "folder that keeps converted layers (default the builder's)")
	sourceFlags(f, &o.source)
	return c
}

// sourceFlags say how an image in a registry is found.
func sourceFlags(f *pflag.FlagSet, o *source.Options) {
	f.StringVar(&o.Platform, "platform", "", "platform, where the image is for several (default this machine's)")
	f.StringVar(&o.Registry.HostsDir, "hosts-dir", "",
		"folder with a hosts.toml for each registry (default /etc/containerd/certs.d)")
	f.BoolVar(&o.Registry.Insecure, "insecure", false, "allow a registry without TLS")
}

func (o *releaseOptions) run(ctx context.Context, name string, s streams) error {
	if o.ukiKey == "-" && slices.Contains(o.signKeys, "-") {
		return usagef("--sign-key - and --uki-key -: standard input has one key")
	}
	keys, err := privateKeys(o.signKeys, s)
	if err != nil {
		return err
	}
	var signBoot builder.BootSigner
	if o.ukiKey != "" {
		if signBoot, err = bootSigner(o.ukiKey, s); err != nil {
			return err
		}
	}
	repository, img, err := inRegistry(ctx, name, o.source)
	if err != nil {
		return err
	}
	m := exporter.Options{
		Cache:    o.cache,
		Progress: stepPrinter(s.err),
		Warn:     func(sentence string) { fmt.Fprintln(s.err, "kairos: "+sentence) },
	}
	if m.Cache == "" {
		m.Cache = builder.LayersFolder(builder.DefaultRoot())
	}
	made, pushed, err := builder.PublishRelease(ctx, repository, *img, m, len(keys) == 0 && signBoot == nil, signBoot)
	if err != nil {
		return err
	}
	fmt.Fprintf(
		s.out, "Release %s (%s) of %s: %s\nUploaded %.1f MB; %.1f MB were there already.\n",
		made.ID(), made.Version, repository.Name, pushed.Artifact.Digest,
		float64(pushed.Uploaded)/1e6, float64(pushed.Shared)/1e6,
	)
	if len(keys) > 0 {
		a, err := release.Read(ctx, repository, pushed.Artifact)
		if err != nil {
			return err
		}
		if err := signRelease(ctx, repository, a, keys, s); err != nil {
			return err
		}
	}
	if o.metadataFile == "" {
		return nil
	}
	b, err := json.MarshalIndent(map[string]any{
		"containerimage.digest":        img.Manifest.Digest,
		"containerimage.config.digest": img.ConfigDigest,
		"kairos.release.digest":        pushed.Artifact.Digest,
		"kairos.release.uploaded":      pushed.Uploaded,
		"kairos.release.shared":        pushed.Shared,
	}, "", "  ")
	if err != nil {
		return err
	}
	return writeFileAtomic(o.metadataFile, append(b, '\n'))
}
