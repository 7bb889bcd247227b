package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
)

type signOptions struct {
	keys                 []string
	detached             bool
	publicKey, signature string
	bootFile             string
	source               source.Options
}

func newSignCommand(s streams) *cobra.Command {
	var o signOptions
	c := &cobra.Command{
		Use:   "sign [flags] REF",
		Short: "Sign the release that is beside an image in a registry",
		Long: `Signs the list of root hashes (release.json) of the release that "kairos release" has published, and
adds the signatures beside the image. Image and release stay as they are, and so do other signatures.
What is signed is what the registry gives: where not all who push there are trusted, convert and sign with
"kairos release --sign-key".

With a key that this machine does not have: --detached prints what to sign; with --public-key and
--signature it takes the answer, checks it, and publishes it. An ed25519 signature is 64 bytes over the text
itself, an ECDSA one is ASN.1 over its SHA-256 digest: what openssl writes.

--boot-file is for the image's boot files, where their signatures for Secure Boot are beside the release (label
io.kairos.secure-boot-signatures=release): --detached prints what the key of the image's certificate has to sign for
one of them, and takes the answer, RSA PKCS #1 v1.5 with SHA-256 over the text. The image's layers are read for it.
With the key at hand "kairos release --uki-key" does both.`,
		Example: `  kairos sign --key release.key registry.example/os:v1
  kairos sign --detached registry.example/os:v1 > text
  openssl pkeyutl -sign -rawin -inkey release.key -in text -out answer
  kairos sign --detached --public-key release.key.pub --signature answer registry.example/os:v1
  kairos sign --detached --boot-file uki registry.example/os:v1 > text
  openssl dgst -sha256 -sign db.key -out answer text
  kairos sign --detached --boot-file uki --signature answer registry.example/os:v1`,
		Args: oneArg("the image, such as registry.example/os:v1"),
		RunE: func(c *cobra.Command, args []string) error { return o.run(c.Context(), args[0], s) },
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringArrayVar(&o.keys, "key", nil,
		"file of a private key, - for standard input, or a token's pkcs11:URI; may be repeated")
	f.BoolVar(&o.detached, "detached", false, "print what to sign, or take what another program signed")
	f.StringVar(&o.publicKey, "public-key", "", "with --detached: file of the public key that has signed")
	f.StringVar(&o.signature, "signature", "", "with --detached: file of the signature, or - for standard input")
	f.StringVar(&o.bootFile, "boot-file", "",
		"with --detached: the boot file to sign instead of the release, uki or systemd-boot")
	sourceFlags(f, &o.source)
	return c
}

func (o *signOptions) run(ctx context.Context, name string, s streams) error {
	switch {
	case o.detached == (len(o.keys) > 0):
		return usagef("kairos sign %s: either --key FILE, or --detached", name)
	case o.bootFile != "" && (!o.detached || o.publicKey != ""):
		return usagef("kairos sign %s: --boot-file goes with --detached and --signature: the certificate is the "+
			"image's", name)
	case o.bootFile != "":
		if _, err := bootFile(o.bootFile); err != nil {
			return err
		}
	case (o.publicKey == "") != (o.signature == ""), o.signature != "" && !o.detached:
		return usagef("kairos sign %s: --detached, --public-key and --signature go together", name)
	}
	keys, err := privateKeys(o.keys, s)
	if err != nil {
		return err
	}
	repository, img, err := inRegistry(ctx, name, o.source)
	if err != nil {
		return err
	}
	if o.bootFile != "" {
		return o.detachedBootFile(ctx, repository, img, s)
	}
	a, err := releaseOf(ctx, repository, img)
	if err != nil {
		return err
	}
	if !o.detached {
		return signRelease(ctx, repository, a, keys, s)
	}
	record, err := a.Release.Marshal()
	if err != nil {
		return err
	}
	if o.signature == "" {
		text, err := trust.Text(record)
		if err != nil {
			return err
		}
		_, err = s.out.Write(text)
		return err
	}
	answer, err := readKeyFile(o.signature, s)
	if err != nil {
		return err
	}
	public, err := publicKeys([]string{o.publicKey}, s)
	if err != nil {
		return err
	}
	one, err := trust.Detached(record, public[0], answer)
	if err != nil {
		return fmt.Errorf("signature %s by key %s: %w: sign what `kairos sign --detached %s` prints",
			o.signature, public[0].ID, err, name)
	}
	return addSignatures(ctx, repository, a, trust.Signatures{one}, s)
}

// signRelease signs a release that is in the registry, and publishes the signatures.
func signRelease(
	ctx context.Context, to *registry.Repository, a release.Artifact, keys []sign.Key, s streams,
) error {
	all, err := sign.Release(a.Release, keys)
	if err != nil {
		return err
	}
	return addSignatures(ctx, to, a, all, s)
}

func addSignatures(
	ctx context.Context, to *registry.Repository, a release.Artifact, all trust.Signatures, s streams,
) error {
	all.Sort()
	if _, err := release.AddSignatures(ctx, to, a, all); err != nil {
		return err
	}
	for _, one := range all {
		fmt.Fprintf(s.out, "Release %s (%s) is signed by %s key %s.\n",
			a.Release.ID(), a.Release.Version, one.Algorithm, one.Key)
	}
	return nil
}

func privateKeys(names []string, s streams) (keys []sign.Key, err error) {
	seen := map[layout.Digest]bool{}
	for _, name := range names {
		key, err := privateKey(name, s)
		if err != nil {
			return nil, err
		}
		if seen[key.ID] {
			return nil, usagef("%s: the key %s is given twice", name, key.ID)
		}
		seen[key.ID] = true
		keys = append(keys, key)
	}
	return keys, nil
}

// privateKey reads a key from a file or standard input, or finds it on a token.
func privateKey(name string, s streams) (sign.Key, error) {
	if strings.HasPrefix(name, pkcs11Scheme) {
		return openToken(name)
	}
	b, err := readKeyFile(name, s)
	if err != nil {
		return sign.Key{}, err
	}
	key, err := sign.ParseKey(b)
	if err != nil {
		return sign.Key{}, fmt.Errorf("%s: %w", name, err)
	}
	return key, nil
}

// inRegistry finds an image that is in a registry.
func inRegistry(ctx context.Context, name string, o source.Options) (*registry.Repository, *image.Image, error) {
	ref, err := source.Parse(name)
	if err != nil {
		return nil, nil, usageError{err}
	}
	if ref.Kind != source.Registry {
		return nil, nil, usagef("image %s: a release is beside an image in a registry", name)
	}
	choose, err := o.Image()
	if err != nil {
		return nil, nil, usageError{err}
	}
	repository, desc, err := registry.Find(ctx, ref.Name, o.Registry)
	if err != nil {
		return nil, nil, fmt.Errorf("image %s: %w", ref, err)
	}
	img, err := image.Read(ctx, repository, choose, desc)
	var unfit *image.UnfitError
	if errors.As(err, &unfit) && unfit.Platform {
		return nil, nil, fmt.Errorf("image %s: %w: choose with --platform", ref, err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("image %s: %w", ref, err)
	}
	img.Ref = repository.Name
	return repository, img, nil
}

// releaseOf returns the release that a node finds beside the image.
func releaseOf(ctx context.Context, from release.Repository, img *image.Image) (release.Artifact, error) {
	manifest := layout.Digest(img.Manifest.Digest)
	a, err := release.Find(ctx, from, manifest)
	if errors.Is(err, release.ErrNone) {
		return a, fmt.Errorf("image %s: %w: %s", img.Ref, err, toPublish(img.Ref))
	}
	if err != nil {
		return a, fmt.Errorf("image %s: %w", img.Ref, err)
	}
	var layers []layout.Digest
	for _, l := range img.Layers {
		layers = append(layers, l.DiffID)
	}
	if err := a.Fits(manifest, img.ConfigDigest, img.Config.Architecture, layers); err != nil {
		return a, fmt.Errorf("image %s: %w: %s", img.Ref, err, toPublish(img.Ref))
	}
	return a, nil
}

// toPublish says how an image gets its release. It is made beside an image in a registry alone.
func toPublish(ref string) string {
	if r, err := source.Parse(ref); err == nil && r.Kind != source.Registry {
		return fmt.Sprintf("publish it where the image is in a registry, with `kairos release REF`, and copy it with "+
			"`kairos release --copy REF %s`", ref)
	}
	return fmt.Sprintf("publish it with `kairos release %s`", ref)
}
