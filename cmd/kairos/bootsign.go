package main

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/kairos-buildkit/kairos/builder"
	"github.com/kairos-buildkit/kairos/exporter"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// bootSigner signs boot files for Secure Boot with the private key in a file or on standard input, or on a token.
func bootSigner(name string, s streams) (builder.BootSigner, error) {
	var key []byte
	var t *token
	var err error
	if strings.HasPrefix(name, pkcs11Scheme) {
		t, err = parseToken(name)
	} else {
		key, err = readKeyFile(name, s)
	}
	if err != nil {
		return nil, err
	}
	return func(file string, program []byte, certificate *x509.Certificate) ([]byte, error) {
		signer := &secureboot.Signer{Certificate: certificate}
		if t != nil {
			signer.Key = rsaToken{t, certificate}
		} else if signer, err = secureboot.NewSigner(key, certificate.Raw); err != nil {
			return nil, fmt.Errorf("key %s: %w", name, err)
		}
		signature, err := signer.Detached(program)
		if err == nil {
			fmt.Fprintf(s.out, "/%s is signed by the key of %s.\n", file, secureboot.Name(certificate))
		}
		return signature, err
	}, nil
}

// rsaToken is a token's RSA key, by its certificate.
type rsaToken struct {
	*token
	certificate *x509.Certificate
}

// Public implements [crypto.Signer].
func (t rsaToken) Public() crypto.PublicKey { return t.certificate.PublicKey }

// sha256Info is the DER of DigestInfo before a SHA-256 digest: RFC 8017, section 9.2, note 1.
const sha256Info = "3031300d060960864801650304020105000420"

// Sign implements [crypto.Signer]: RSA PKCS #1 v1.5 of a SHA-256 digest.
func (t rsaToken) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	prefix, err := hex.DecodeString(sha256Info)
	if err != nil {
		return nil, err
	}
	b, err := t.run(append(prefix, digest...), "--sign", "--login", "--mechanism", "RSA-PKCS")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.uri, err)
	}
	public, ok := t.certificate.PublicKey.(*rsa.PublicKey)
	if !ok || rsa.VerifyPKCS1v15(public, crypto.SHA256, digest, b) != nil {
		return nil, fmt.Errorf("%s: the token's key is not the one of the certificate %s", t.uri,
			secureboot.Name(t.certificate))
	}
	return b, nil
}

// bootFile is a boot file's path in an image, by the name that people give it.
func bootFile(name string) (string, error) {
	switch name {
	case "uki":
		return layout.ImageUKI, nil
	case "systemd-boot":
		return layout.ImageSystemdBoot, nil
	}
	return "", usagef("--boot-file %s: want uki or systemd-boot", name)
}

// errTold ends the work on an image when what was asked for is known.
var errTold = errors.New("told")

// detachedBootFile prints what the key of the image's certificate has to sign for a boot file, or takes what it has
// signed.
func (o *signOptions) detachedBootFile(
	ctx context.Context, repository *registry.Repository, img *image.Image, s streams,
) error {
	which, err := bootFile(o.bootFile)
	if err != nil {
		return err
	}
	a, err := releaseOf(ctx, repository, img)
	if err != nil {
		return err
	}
	var answer []byte
	if o.signature != "" {
		if answer, err = readKeyFile(o.signature, s); err != nil {
			return err
		}
	}
	m := exporter.Options{
		Cache:    builder.LayersFolder(builder.DefaultRoot()),
		Progress: stepPrinter(s.err),
		Warn:     func(sentence string) { fmt.Fprintln(s.err, "kairos: "+sentence) },
	}
	list, err := builder.SignBootFiles(ctx, *img, m, func(
		file string, program []byte, certificate *x509.Certificate,
	) ([]byte, error) {
		if file != which {
			return nil, nil
		}
		if o.signature != "" {
			signature, err := secureboot.Answered(program, certificate, answer)
			if err != nil {
				err = fmt.Errorf("%w: sign what `kairos sign --detached --boot-file %s %s` prints", err, o.bootFile,
					img.Ref)
			}
			return signature, err
		}
		text, err := secureboot.Text(program, certificate)
		if err == nil {
			_, err = s.out.Write(text)
		}
		return nil, errors.Join(errTold, err)
	})
	if err != nil {
		if errors.Is(err, errTold) {
			return nil
		}
		return err
	}
	if _, err := release.AddBootSignatures(ctx, repository, a, list); err != nil {
		return err
	}
	_, err = fmt.Fprintf(
		s.out, "The %s of release %s (%s) is signed.\n", o.bootFile, a.Release.ID(), a.Release.Version,
	)
	return err
}
