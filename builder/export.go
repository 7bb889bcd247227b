package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/progress"
)

// Exporter returns the exporter for a value of --output's type.
//
// A stock client receives files for the types that it knows, and only for those:
//
//	type=tar|oci,format=iso,dest=os.iso    the file to the client (`kairos build` sends its type=iso so)
//	type=local,format=iso,dest=DIR         os.iso and os.iso.sha256 into a folder, for each platform
//	type=iso                               kept with the record of the build; see attach.go
//	type=iso,name=REF,push=true            pushed with the image; see push.go
//	type=image,name=REF,push=true,release=true, or type=release,name=REF
//	                                       the image, and its release beside it; see publish.go
func (w *worker) Exporter(name string, sm *session.Manager) (exporter.Exporter, error) {
	if slices.Contains(Formats(), name) {
		image, err := w.Worker.Exporter(client.ExporterImage, sm)
		return attachExporter{worker: w, sessions: sm, format: name, image: imageExporter{image}}, err
	}
	if name == TypeRelease || name == client.ExporterImage {
		image, err := w.Worker.Exporter(client.ExporterImage, sm)
		return releaseExporter{imageExporter{image}, w, sm, name == TypeRelease}, err
	}
	stock, err := w.Worker.Exporter(name, sm)
	if err != nil {
		return nil, err
	}
	files := fileExporter{worker: w, sessions: sm, typ: name}
	switch name {
	case client.ExporterTar:
		return byFormat{stock, files}, nil
	case client.ExporterLocal:
		return byFormat{stock, folderExporter{files}}, nil
	case client.ExporterOCI:
		return byFormat{imageExporter{stock}, files}, nil
	case client.ExporterDocker:
		return imageExporter{stock}, nil
	default:
		return stock, nil
	}
}

// byFormat is the stock exporter unless there is a format.
type byFormat struct{ stock, media exporter.Exporter }

func (e byFormat) Resolve(ctx context.Context, id int, attrs map[string]string) (exporter.ExporterInstance, error) {
	if attrs["format"] == "" {
		return e.stock.Resolve(ctx, id, attrs)
	}
	return e.media.Resolve(ctx, id, attrs)
}

// instance is what the exporters of media have in common.
type instance struct {
	id     int
	typ    string
	attrs  map[string]string
	medium Medium
}

func (i *instance) ID() int                  { return i.id }
func (i *instance) Type() string             { return i.typ }
func (i *instance) Name() string             { return "exporting to " + i.medium.Format }
func (i *instance) Config() *exporter.Config { return exporter.NewConfig() }

// Attrs goes into the record of the build, which everybody reads who may use the builder. A cloud-config may have
// passwords and tokens: the record only says that there was one.
func (i *instance) Attrs() map[string]string {
	if i.attrs[attrCloudConfig] == "" {
		return i.attrs
	}
	attrs := maps.Clone(i.attrs)
	attrs[attrCloudConfig] = notRecorded
	return attrs
}

// fileExporter sends a medium to the client as one file.
type fileExporter struct {
	worker   *worker
	sessions *session.Manager
	typ      string
}

func (e fileExporter) Resolve(
	ctx context.Context,
	id int,
	attrs map[string]string,
) (exporter.ExporterInstance, error) {
	attrs = withConfig(ctx, id, attrs)
	m, err := ParseMedium(attrs["format"], attrs)
	if err != nil {
		return nil, err
	}
	return &fileInstance{e, instance{id, e.typ, attrs, m}}, nil
}

type fileInstance struct {
	fileExporter
	instance
}

func (i *fileInstance) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (
	map[string]string, exporter.FinalizeFunc, exporter.DescriptorReference, error,
) {
	ctx, done, err := leaseutil.WithLease(ctx, i.worker.LeaseManager(), leaseutil.MakeTemporary)
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()

	one, err := single(src)
	if err != nil {
		return nil, nil, nil, err
	}
	caller, err := i.caller(ctx, info.SessionID)
	if err != nil {
		return nil, nil, nil, err
	}
	// The stream to the client begins when there is something to send: until then an error
	// leaves no file there.
	to := &lateWriter{open: func() (io.WriteCloser, error) { return filesync.CopyFileWriter(ctx, nil, i.id, caller) }}
	resp, err := i.worker.writeMedium(ctx, to, one, info, i.medium, i.sessions)
	if err != nil {
		return nil, nil, nil, errors.Join(err, to.Close())
	}
	finish := progress.OneOff(ctx, "sending "+i.medium.Format)
	return resp, nil, nil, finish(to.Close())
}

// caller is the client of a session.
func (e fileExporter) caller(ctx context.Context, id string) (session.Caller, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	caller, err := e.sessions.Get(ctx, id, false)
	if err != nil {
		return nil, fmt.Errorf("send a file: the client is gone: %w", err)
	}
	return caller, nil
}

// writeMedium writes the medium of a result with one platform. The response names the image.
func (w *worker) writeMedium(
	ctx context.Context,
	to io.Writer,
	src *exporter.Source,
	info exporter.ExportBuildInfo,
	m Medium,
	sessions *session.Manager,
) (map[string]string, error) {
	img, resp, err := w.commit(ctx, src, info, &m)
	if err != nil {
		return nil, err
	}
	m.Cache = w.layers
	m.Progress = func(step string) func(error) error { return progress.OneOff(ctx, step) }
	m.Warn = func(sentence string) { warn(ctx, sentence) }
	m.Signatures = w.mediumSigner(sessions, info.SessionID)
	return resp, WriteMedium(ctx, to, img, m)
}

// lateWriter opens at the first byte.
type lateWriter struct {
	open func() (io.WriteCloser, error)
	w    io.WriteCloser
	err  error
}

func (l *lateWriter) Write(p []byte) (int, error) {
	if l.w == nil && l.err == nil {
		l.w, l.err = l.open()
	}
	if l.err != nil {
		return 0, l.err
	}
	return l.w.Write(p)
}

func (l *lateWriter) Close() error {
	if l.w == nil {
		return nil
	}
	return l.w.Close()
}
