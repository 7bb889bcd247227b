package main

import (
	"context"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
)

// copy copies an image and its releases to another place.
func (o *releaseOptions) copy(ctx context.Context, from, to string, s streams) (err error) {
	src, err := source.Parse(from)
	if err != nil {
		return usageError{err}
	}
	dst, err := source.Parse(to)
	if err != nil {
		return usageError{err}
	}
	found, err := source.Find(ctx, src, o.source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, found.Close()) }()
	if len(found.Roots) != 1 {
		return usagef("image %s: the name is that of %d images: name one by its @DIGEST", from, len(found.Roots))
	}
	root := found.Roots[0]
	if o.source.Platform != "" {
		if root, err = o.platformOf(ctx, src); err != nil {
			return err
		}
	}
	mirror, err := source.Create(ctx, dst, o.source)
	if err != nil {
		return usageError{err}
	}
	done, err := release.Copy(ctx, found, root, mirror, release.CopyOptions{Progress: stepPrinter(s.err)})
	if errors.Is(err, release.ErrNone) {
		err = fmt.Errorf("%w: %s", err, toPublish(from))
	}
	if err := mirror.Finish(err); err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	fmt.Fprintf(s.out, "Copied %s to %s: %d images, %d release artifacts, %d signatures of images.\n"+
		"Written %s; %s were there already.\n",
		root.Digest, to, done.Images, done.Releases, done.Signatures, mb(done.Uploaded), mb(done.Shared))
	return nil
}

// platformOf finds the manifest of one platform.
func (o *releaseOptions) platformOf(ctx context.Context, ref source.Ref) (d ocispec.Descriptor, err error) {
	img, err := openImage(ctx, ref.String(), o.source)
	if err != nil {
		return d, err
	}
	if _, err := layout.ParseDigest(img.Manifest.Digest.String()); err != nil {
		return d, errors.Join(fmt.Errorf("image %s: it has no manifest: %w", ref, err), img.Close())
	}
	return img.Manifest, img.Close()
}
