package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

// Target is where a release is published.
type Target interface {
	// Push uploads a blob that the repository does not have, and says whether it did.
	Push(ctx context.Context, desc ocispec.Descriptor, from io.Reader) (uploaded bool, err error)
	// PushReferrer pushes a manifest so that it is found beside its subject.
	PushReferrer(
		ctx context.Context, subject layout.Digest, artifactType string, manifest []byte,
	) (ocispec.Descriptor, error)
}

// Pushed says what publishing a release took.
type Pushed struct {
	Artifact ocispec.Descriptor
	Uploaded int64 // bytes of blobs
	Shared   int64 // bytes of blobs that the repository had
}

// PushOptions of [Push]. The zero value works.
type PushOptions struct {
	// Known are blobs that the repository has for sure.
	Known *Known
	// Progress is called when a step begins, and what it returns when it ends.
	Progress func(step string) func(error) error
}

// Push publishes a release beside its image, whose manifest subject is. The blobs are those of its layers.
func Push(
	ctx context.Context,
	to Target,
	subject ocispec.Descriptor,
	r layout.Release,
	blobs []io.ReaderAt,
	o PushOptions,
) (p Pushed, err error) {
	if len(blobs) != len(r.Layers) {
		return p, fmt.Errorf("publish release %s: %d layers, and %d blobs", r.ID(), len(r.Layers), len(blobs))
	}
	a := Artifact{Release: r, Subject: subject}
	for i, l := range r.Layers {
		total := verity.TotalSize(l.Size)
		if o.Known != nil {
			if d, ok := o.Known.Descriptor(l, r.Format); ok {
				a.Blobs = append(a.Blobs, d)
				p.Shared += total
				continue
			}
		}
		done := func(err error) error { return err }
		if o.Progress != nil {
			done = o.Progress(fmt.Sprintf("publishing layer %d of %d %s", i+1, len(r.Layers), l.DiffID))
		}
		d, uploaded, err := pushBlob(ctx, to, blobs[i], total)
		if err := done(err); err != nil {
			return p, fmt.Errorf("publish layer %d, %s: %w", i+1, l.DiffID, err)
		}
		if a.Blobs = append(a.Blobs, d); uploaded {
			p.Uploaded += total
		} else {
			p.Shared += total
		}
	}
	p.Artifact, err = pushArtifact(ctx, to, a)
	return p, err
}

func pushBlob(
	ctx context.Context, to Target, blob io.ReaderAt, size int64,
) (d ocispec.Descriptor, up bool, err error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(blob, 0, size)); err != nil {
		return d, false, err
	}
	d = ocispec.Descriptor{
		MediaType: layout.ReleaseBlobType, Size: size,
		Digest: digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(sum.Sum(nil))),
	}
	up, err = to.Push(ctx, d, io.NewSectionReader(blob, 0, size))
	return d, up, err
}

// pushArtifact pushes what refers to blobs that are there: the manifest comes last.
func pushArtifact(ctx context.Context, to Target, a Artifact) (ocispec.Descriptor, error) {
	manifest, record, err := a.Marshal()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	empty := ocispec.DescriptorEmptyJSON
	_, errConfig := to.Push(ctx, plain(empty), bytes.NewReader(empty.Data))
	_, errRecord := to.Push(ctx, describe(layout.ReleaseType, record), bytes.NewReader(record))
	if err := errors.Join(errConfig, errRecord); err != nil {
		return ocispec.Descriptor{}, err
	}
	return to.PushReferrer(ctx, a.Release.Manifest, layout.ReleaseType, manifest)
}
