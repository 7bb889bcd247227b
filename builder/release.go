package builder

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	media "github.com/kairos-buildkit/kairos/exporter"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// PublishRelease makes the release of an image that is in a registry, and pushes it beside the image. Layers that
// another release of the repository has in the same format are neither converted nor uploaded where believe is set.
// Who signs the release does not set it: the root hashes of others would be signed unseen. With a boot signer the
// boot files are signed, too, before anything is pushed.
func PublishRelease(
	ctx context.Context,
	to *registry.Repository,
	img image.Image,
	o media.Options,
	believe bool,
	signBoot BootSigner,
) (r layout.Release, p release.Pushed, err error) {
	if img.Manifest.Digest == "" {
		return r, p, errors.New("the image has no manifest in a registry: push it first")
	}
	var known *release.Known
	if believe {
		known, err = release.Previous(ctx, to)
		if err != nil && o.Warn != nil {
			o.Warn(fmt.Sprintf(
				"All layers are converted, since the repository's other releases are not known: %v.", err,
			))
		}
		o.Known = func(id layout.Digest, f layout.Format) *image.Blob { return known.Blob(ctx, to, id, f) }
	}
	o.CacheSize = layersSize
	made, err := media.MakeRelease(ctx, img, o)
	if err != nil {
		return r, p, err
	}
	defer func() { err = errors.Join(err, made.Close()) }()
	var list secureboot.DetachedList
	if signBoot != nil {
		if list, err = signPrograms(made, signBoot); err != nil {
			return r, p, fmt.Errorf("sign the boot files of image %s: %w", img.Name(), err)
		}
	}
	var blobs []io.ReaderAt
	for _, b := range made.Blobs {
		blobs = append(blobs, b)
	}
	p, err = release.Push(ctx, to, img.Manifest, made.Release, blobs, release.PushOptions{
		Known: known, Progress: o.Progress,
	})
	if err != nil || list == nil {
		return made.Release, p, err
	}
	a, err := release.Read(ctx, to, p.Artifact)
	if err == nil {
		p.Artifact, err = release.AddBootSignatures(ctx, to, a, list)
	}
	return made.Release, p, err
}

// BootSigner returns the signature of an image's boot file, PKCS #7 in DER, by the key of the image's certificate.
// file is its path in the image. With neither signature nor error the file has none.
type BootSigner func(file string, program []byte, certificate *x509.Certificate) ([]byte, error)

// SignBootFiles signs an image's boot files apart from the image, which is read for that as a whole: nothing that
// somebody has published beside it is believed.
func SignBootFiles(ctx context.Context, img image.Image, o media.Options, sign BootSigner) (
	list secureboot.DetachedList, err error,
) {
	made, err := media.MakeRelease(ctx, img, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, made.Close()) }()
	if list, err = signPrograms(made, sign); err != nil {
		return nil, fmt.Errorf("sign the boot files of image %s: %w", img.Name(), err)
	}
	return list, nil
}

func signPrograms(r *media.Release, sign BootSigner) (list secureboot.DetachedList, err error) {
	switch {
	case r.SecureBoot == nil:
		return nil, fmt.Errorf("it has no certificate /%s: build it with the certificate, and the label %s=%s",
			layout.ImageSecureBootCert, layout.ImageLabelBootSignatures, layout.BootSignaturesInRelease)
	case !r.SecureBoot.Apart:
		return nil, fmt.Errorf("they are signed when the image is built: give it the label %s=%s to sign them later",
			layout.ImageLabelBootSignatures, layout.BootSignaturesInRelease)
	}
	if err := secureboot.CheckTime(r.SecureBoot.Certificate, time.Now()); err != nil {
		return nil, err
	}
	for _, file := range slices.Sorted(maps.Keys(r.Programs)) {
		program := r.Programs[file]
		if r.SecureBoot.Check(program) == nil {
			continue // the build had the key
		}
		signature, err := sign(file, program, r.SecureBoot.Certificate)
		if err != nil {
			return nil, fmt.Errorf("/%s: %w", file, err)
		}
		if signature == nil {
			continue
		}
		one := secureboot.DetachedList{{File: file, Signature: signature}}
		if _, err := one.Attach(file, program, r.SecureBoot.Certificate); err != nil {
			return nil, fmt.Errorf("/%s: %w", file, err)
		}
		list = append(list, one...)
	}
	if len(list) == 0 {
		return nil, errors.New("there is nothing to sign: they are signed in the image")
	}
	return list, nil
}
