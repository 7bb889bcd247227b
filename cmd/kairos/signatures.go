package main

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
)

// signatureOptions say where the signatures come from that an image with keys asks for.
type signatureOptions struct {
	signKeys []string
	file     string
}

func (o *signatureOptions) flags(f *pflag.FlagSet) {
	f.StringArrayVar(&o.signKeys, "sign-key", nil,
		"sign what is put on the medium with the private key in this file, or a token's pkcs11:URI, where the image "+
			"trusts keys; may be repeated")
	f.StringVar(&o.file, "signature", "",
		"file with the release's signatures (release.sig; default those beside the image in its registry)")
}

// source returns what gives an exporter the signatures of a release.
func (o *signatureOptions) source(img *source.Image, s streams) (
	func(context.Context, trust.Anchor, layout.Release) ([]byte, error), error,
) {
	if len(o.signKeys) > 0 && o.file != "" {
		return nil, usagef("--sign-key or --signature, not both")
	}
	keys, err := privateKeys(o.signKeys, s)
	if err != nil {
		return nil, err
	}
	var given trust.Signatures
	if o.file != "" {
		b, err := readKeyFile(o.file, s)
		if err != nil {
			return nil, err
		}
		if given, err = trust.ParseSignatures(b); err != nil {
			return nil, fmt.Errorf("%s: %w", o.file, err)
		}
	}
	return func(ctx context.Context, a trust.Anchor, r layout.Release) ([]byte, error) {
		record, err := r.Marshal()
		if err != nil {
			return nil, err
		}
		all := given
		switch {
		case len(keys) > 0:
			all, err = sign.All(record, keys)
		case o.file == "" && img.Repository != nil && r.Manifest != "":
			all, err = release.Signatures(ctx, img.Repository, r)
		}
		if err != nil || len(all) == 0 {
			return nil, err
		}
		return a.Choose(record, all).Marshal()
	}, nil
}

// bootSignatures returns what gives an exporter the signatures of an image's boot files: those beside it.
func bootSignatures(img *source.Image) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		if img.Repository == nil || img.Manifest.Digest == "" {
			return nil, nil
		}
		return release.BootSignatures(ctx, img.Repository, layout.Digest(img.Manifest.Digest))
	}
}
