package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/image/policy"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

type verifyOptions struct {
	keys      []string
	policy    string
	threshold int
	minEpoch  int64
	source    source.Options
}

func newVerifyCommand(s streams) *cobra.Command {
	var o verifyOptions
	c := &cobra.Command{
		Use:   "verify [flags] REF",
		Short: "Check who has signed an image, the release that is beside it, or those on a medium",
		Long: `Checks that the release beside an image is the image's, and that the given keys have signed its list of
root hashes (release.json). The blobs themselves are not fetched: whoever reads them compares them with
those root hashes. Where the signatures of the boot files are beside the release, these are read and checked, too.

An image that has the keys in /usr/lib/kairos/trust.d asks for their signatures itself when it is exported,
when it boots, and when a node upgrades; docs/security.md says what that stops. REF is in a registry, in an
oci-layout: or in an oci-archive:.

With --policy, a policy.json of containers or a trust policy of notation says whether a node that has it would take
the image: signed by cosign or notation, by whom. Files that the policy names are those of this machine.

Of a medium, iso:FILE or disk:FILE (also the disk of a machine that is off), every release is read as a whole: its
signatures, each layer against its root hash, its UKI, and kernel and initrd for BIOS; of a disk also what is on
the ESP: boot loaders and their menus, boot entries, GRUB's state, names and tables of the file system. The first
wrong thing is named. Not looked at are configs, what a node keeps, files that no release brings, times and
attributes of files, and what BIOS starts before GRUB's files.`,
		Example: `  kairos verify --key release.key.pub registry.example/os:v1
  kairos verify --key a.pub --key b.pub --key c.pub --threshold 2 registry.example/os:v1
  kairos verify --policy policy.json registry.example/os:v1
  kairos verify --key release.key.pub disk:os.raw`,
		Args: oneArg("the image, such as registry.example/os:v1"),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c, args[0], s) },
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringArrayVar(&o.keys, "key", nil, "file of a public key; may be repeated")
	f.StringVar(&o.policy, "policy", "", "`FILE` of a policy that has to accept the image")
	f.IntVar(&o.threshold, "threshold", 0, "how many of the keys must have signed (default all)")
	f.Int64Var(&o.minEpoch, "min-epoch", 0, "lowest index against rollback (label io.kairos.epoch) that is accepted")
	sourceFlags(f, &o.source)
	return c
}

func (o *verifyOptions) run(c *cobra.Command, name string, s streams) error {
	if o.policy != "" {
		if err := o.ask(c.Context(), name, s); err != nil || len(o.keys) == 0 {
			return err
		}
	}
	if len(o.keys) == 0 {
		return usagef("kairos verify %s: whose signature? Give --key FILE, or --policy FILE", name)
	}
	keys, err := publicKeys(o.keys, s)
	if err != nil {
		return err
	}
	threshold := len(keys)
	if c.Flags().Changed("threshold") {
		threshold = o.threshold
	}
	if threshold < 1 || threshold > len(keys) {
		return usagef("--threshold %d: want 1 to %d, as many as there are keys", threshold, len(keys))
	}
	ref, err := source.Parse(name)
	if err != nil {
		return usageError{err}
	}
	if ref.Kind == source.ISO || ref.Kind == source.Disk {
		trust.SortKeys(keys)
		a := trust.Anchor{Keys: keys, Threshold: threshold, Epoch: o.minEpoch}
		return verifyMedium(c.Context(), ref.Name, a, s)
	}
	return o.verify(c.Context(), name, keys, threshold, s)
}

// ask asks the policy about the image.
func (o *verifyOptions) ask(ctx context.Context, name string, s streams) (err error) {
	ref, err := source.Parse(name)
	if err != nil {
		return usageError{err}
	}
	b, err := os.ReadFile(o.policy)
	if err != nil {
		return err
	}
	img, err := openImage(ctx, name, o.source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	subject, err := policy.Of(ctx, ref, img, o.source.Registry)
	if err != nil {
		return err
	}
	accepted, err := policy.Found{Name: o.policy, Content: b, Root: os.DirFS("/")}.Check(ctx, subject)
	if refused := (*policy.RefusedError)(nil); errors.As(err, &refused) {
		return fmt.Errorf("the policy %s does not accept the image %s: %w", o.policy, img.Ref, err)
	}
	if err != nil {
		return fmt.Errorf("whether the policy %s accepts the image %s: %w", o.policy, img.Ref, err)
	}
	for _, a := range accepted {
		fmt.Fprintf(s.out, "The policy accepts %s: %s\n", img.Ref, a)
	}
	return nil
}

func (o *verifyOptions) verify(
	ctx context.Context, name string, keys []trust.PublicKey, threshold int, s streams,
) (err error) {
	ref, err := source.Parse(name)
	if err != nil {
		return usageError{err}
	}
	if ref.Kind != source.Registry && ref.Kind != source.OCILayout && ref.Kind != source.OCIArchive {
		return usagef("image %s: a release is beside an image in a registry or an OCI layout", name)
	}
	img, err := openImage(ctx, name, o.source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	repository := img.Repository
	if repository == nil {
		return fmt.Errorf("image %s: it is in an old docker-archive, which has no releases", name)
	}
	a, err := releaseOf(ctx, repository, &img.Image)
	if err != nil {
		return err
	}
	record, err := a.Release.Marshal()
	if err != nil {
		return err
	}
	all, err := release.Signatures(ctx, repository, a.Release)
	if err != nil {
		return fmt.Errorf("image %s: %w", img.Ref, err)
	}
	signed, err := trust.Verify(record, all, keys, threshold)
	if err != nil {
		return fmt.Errorf("release %s of %s: %w: sign it with `kairos sign --key FILE %s`",
			a.Release.ID(), img.Ref, err, img.Ref)
	}
	if a.Release.Epoch < o.minEpoch {
		return fmt.Errorf("release %s of %s: its epoch is %d, and %d is asked for: take a later image",
			a.Release.ID(), img.Ref, a.Release.Epoch, o.minEpoch)
	}
	fmt.Fprintf(s.out, "Release %s (%s) of %s, epoch %d\n",
		a.Release.ID(), a.Release.Version, img.Ref, a.Release.Epoch)
	for _, key := range signed {
		fmt.Fprintf(s.out, "signed by %s key %s\n", key.Algorithm, key.ID)
	}
	return verifyBootFiles(ctx, img, a, s)
}

// verifyBootFiles says who has signed an image's boot files, where their signatures are beside it. What it reads of
// the blobs is compared with the root hashes that the release's keys have signed.
func verifyBootFiles(ctx context.Context, img *source.Image, a release.Artifact, s streams) error {
	o := boot.OptionsFrom(a.Release.Labels)
	if o.Signatures == "" {
		return nil
	}
	fail := func(err error) error { return fmt.Errorf("boot files of %s: %w", img.Ref, err) }
	var err error
	if o.Detached, err = bootSignatures(img)(ctx); err != nil {
		return fail(err)
	}
	var blobs []*store.Blob
	for _, b := range a.Remote(ctx, img.Repository) {
		blobs = append(blobs, &store.Blob{Layer: b.Layer, ReaderAt: b.ReaderAt, Closer: io.NopCloser(nil)})
	}
	tree, err := store.MergedTree(blobs)
	if err != nil {
		return fail(err)
	}
	secureBoot, err := boot.ReadSecureBoot(tree, o)
	if err != nil {
		return fail(err)
	}
	files, err := secureBoot.Programs(tree, o)
	if err != nil {
		return fail(err)
	}
	if err := secureBoot.CheckAll(files); err != nil {
		return fail(err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(s.out, "/%s signed by the key of %s\n", name, secureboot.Name(secureBoot.Certificate))
	}
	return nil
}
