package builder

import (
	"context"
	"fmt"
	"maps"
	"strconv"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// attachExporter is type=iso as a stock client sends it: without a way to send a file back,
// and without a word to the builder about a dest= that the client was given. The medium becomes an
// attachment of the build's record, which any client can fetch, and a warning says how. With
// push=true it is pushed instead, together with the image.
type attachExporter struct {
	worker   *worker
	sessions *session.Manager
	format   string
	image    exporter.Exporter
}

// MediaType is the type of a medium as a blob.
func MediaType(format string) string { return "application/vnd.kairos." + format }

// pushAttrs are the attributes of an image that is pushed with its medium.
var pushAttrs = []string{"push", "push-by-digest", "registry.insecure"}

func (e attachExporter) Resolve(
	ctx context.Context,
	id int,
	attrs map[string]string,
) (exporter.ExporterInstance, error) {
	attrs = withConfig(ctx, id, attrs)
	own := maps.Clone(attrs)
	for _, key := range pushAttrs {
		delete(own, key)
	}
	if own == nil {
		own = map[string]string{}
	}
	m, err := ParseMedium(e.format, own)
	if err != nil {
		return nil, err
	}
	if len(m.CloudConfig) > 0 {
		return nil, fmt.Errorf(
			"type=%[1]s: a medium with a cloud-config is not kept with the record of the build, nor pushed: "+
				"its secrets would be there for all to read. "+
				"Have it sent: --output type=tar,format=%[1]s,dest=os.%[1]s",
			e.format,
		)
	}
	i := &attachInstance{attachExporter: e, instance: instance{id, e.format, attrs, m}}
	if v, ok := attrs["push"]; ok {
		if i.push, err = boolAttr(v); err != nil {
			return nil, fmt.Errorf("push=%s: %w", v, err)
		}
	}
	if !i.push {
		return i, nil
	}
	if attrs["name"] == "" {
		return nil, fmt.Errorf("type=%s,push=true: push where? Add name=REF", e.format)
	}
	if i.insecure, err = boolAttr(orFalse(attrs["registry.insecure"])); err != nil {
		return nil, fmt.Errorf("registry.insecure: %w", err)
	}
	imageAttrs := maps.Clone(attrs)
	i.image, err = e.image.Resolve(ctx, id, imageAttrs)
	return i, err
}

func boolAttr(v string) (bool, error) {
	if v == "" {
		return true, nil
	}
	return strconv.ParseBool(v)
}

func orFalse(v string) string {
	if v == "" {
		return "false"
	}
	return v
}

type attachInstance struct {
	attachExporter
	instance
	push, insecure bool
	image          exporter.ExporterInstance
}

func (i *attachInstance) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (
	_ map[string]string, _ exporter.FinalizeFunc, ref exporter.DescriptorReference, err error,
) {
	ctx, done, err := leaseutil.WithLease(ctx, i.worker.LeaseManager(), leaseutil.MakeTemporary)
	if err != nil {
		return nil, nil, nil, err
	}
	// The reference takes the lease over: the record of the build gets its own from it.
	defer func() {
		if ref == nil {
			_ = done(context.WithoutCancel(ctx))
		}
	}()
	one, err := single(src)
	if err != nil {
		return nil, nil, nil, err
	}
	resp, desc, err := i.store(ctx, one, info)
	if err != nil {
		return nil, nil, nil, err
	}
	resp["kairos."+i.format+".digest"] = desc.Digest.String()
	resp["kairos."+i.format+".size"] = strconv.FormatInt(desc.Size, 10)
	if i.push {
		finalize, err := i.pushBoth(ctx, src, info, resp, desc)
		return resp, finalize, containerimage.NewDescriptorReference(desc, done), err
	}
	warn(
		ctx,
		fmt.Sprintf(
			"The %[1]s is kept with the record of this build. Fetch it: "+
				"docker buildx history inspect attachment --type %[2]s %[3]s > os.%[1]s"+
				" (or build it into a file at once: --output type=tar,format=%[1]s,dest=os.%[1]s)",
			i.format,
			desc.MediaType,
			info.Ref,
		),
	)
	return resp, nil, containerimage.NewDescriptorReference(desc, done), nil
}

// store writes the medium into the content store.
func (i *attachInstance) store(
	ctx context.Context,
	src *exporter.Source,
	info exporter.ExportBuildInfo,
) (map[string]string, ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: MediaType(i.format)}
	w, err := content.OpenWriter(
		ctx,
		i.worker.ContentStore(),
		content.WithRef("kairos-"+i.format+"-"+info.Ref+"-"+strconv.Itoa(i.id)),
	)
	if err != nil {
		return nil, desc, err
	}
	defer w.Close()
	counted := &countingWriter{w: w}
	resp, err := i.worker.writeMedium(ctx, counted, src, info, i.medium, i.sessions)
	if err != nil {
		return nil, desc, err
	}
	desc.Size, desc.Digest = counted.n, w.Digest()
	return resp, desc, commitBlob(ctx, w, desc.Size, desc.Digest)
}

// commitBlob ends a write; the same content may be there already.
func commitBlob(ctx context.Context, w content.Writer, size int64, d digest.Digest) error {
	if err := w.Commit(ctx, size, d); err != nil && !isExists(err) {
		return fmt.Errorf("keep the medium: %w", err)
	}
	return nil
}
