package builder

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/util/push"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// pushBoth pushes the image, and the medium as an artifact whose subject is the image: the
// registry's referrers API lists it there, and no tag is spent on it (OCI distribution
// specification 1.1).
func (i *attachInstance) pushBoth(
	ctx context.Context,
	src *exporter.Source,
	info exporter.ExportBuildInfo,
	resp map[string]string,
	medium ocispec.Descriptor,
) (exporter.FinalizeFunc, error) {
	imageResp, pushImage, _, err := i.image.Export(ctx, src, info)
	if err != nil {
		return nil, err
	}
	for k, v := range imageResp {
		resp[k] = v
	}
	subject, err := responseDescriptor(imageResp)
	if err != nil {
		return nil, err
	}
	artifact, err := i.artifact(ctx, medium, subject)
	if err != nil {
		return nil, err
	}
	resp["kairos."+i.format+".artifact.digest"] = artifact.String()
	return func(ctx context.Context) error {
		if pushImage != nil {
			if err := pushImage(ctx); err != nil {
				return err
			}
		}
		for name := range strings.SplitSeq(i.attrs["name"], ",") {
			repo, err := reference.ParseNormalizedNamed(name)
			if err != nil {
				return err
			}
			store := i.worker.ContentStore()
			err = push.Push(
				ctx,
				i.sessions,
				info.SessionID,
				store,
				store,
				artifact,
				repo.Name(),
				i.insecure,
				i.worker.RegistryHosts,
				true,
				nil,
			)
			if err != nil {
				return fmt.Errorf("push the %s of %s: %w", i.format, name, err)
			}
		}
		return nil
	}, nil
}

// responseDescriptor is the descriptor of the image that was exported.
func responseDescriptor(resp map[string]string) (ocispec.Descriptor, error) {
	var desc ocispec.Descriptor
	b, err := base64.StdEncoding.DecodeString(resp[exptypes.ExporterImageDescriptorKey])
	if err == nil {
		err = json.Unmarshal(b, &desc)
	}
	if err != nil {
		return desc, fmt.Errorf("descriptor of the image: %w", err)
	}
	return ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}, nil
}

// artifact stores the manifest that ties the medium to the image.
func (i *attachInstance) artifact(ctx context.Context, medium, subject ocispec.Descriptor) (digest.Digest, error) {
	empty := ocispec.DescriptorEmptyJSON
	medium.Annotations = map[string]string{ocispec.AnnotationTitle: "os." + i.format}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: medium.MediaType,
		Config:       ocispec.Descriptor{MediaType: empty.MediaType, Digest: empty.Digest, Size: empty.Size},
		Layers:       []ocispec.Descriptor{medium},
		Subject:      &subject,
	})
	if err != nil {
		return "", err
	}
	d := digest.FromBytes(manifest)
	for _, blob := range []struct {
		desc ocispec.Descriptor
		data []byte
		opts []content.Opt
	}{
		{empty, empty.Data, nil},
		{ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(manifest))},
			manifest,
			[]content.Opt{content.WithLabels(map[string]string{
				"containerd.io/gc.ref.content.0": empty.Digest.String(),
				"containerd.io/gc.ref.content.1": medium.Digest.String(),
			})}},
	} {
		err := content.WriteBlob(ctx, i.worker.ContentStore(), blob.desc.Digest.String(), bytes.NewReader(blob.data),
			blob.desc, blob.opts...)
		if err != nil {
			return "", err
		}
	}
	return d, nil
}

func isExists(err error) bool { return errors.Is(err, errdefs.ErrAlreadyExists) }

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
