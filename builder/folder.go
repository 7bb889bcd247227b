package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/progress"
	"github.com/tonistiigi/fsutil"
)

// folderExporter sends os.<format> and its checksum into a folder of the client, with several
// platforms into a folder for each.
type folderExporter struct{ fileExporter }

func (e folderExporter) Resolve(
	ctx context.Context,
	id int,
	attrs map[string]string,
) (exporter.ExporterInstance, error) {
	i, err := e.fileExporter.Resolve(ctx, id, attrs)
	if err != nil {
		return nil, err
	}
	return &folderInstance{i.(*fileInstance)}, nil
}

// mediaTemp is the pattern of folders with media on their way to a client.
const mediaTemp = "media-*"

type folderInstance struct{ *fileInstance }

func (i *folderInstance) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (
	_ map[string]string, _ exporter.FinalizeFunc, _ exporter.DescriptorReference, err error,
) {
	ctx, done, err := leaseutil.WithLease(ctx, i.worker.LeaseManager(), leaseutil.MakeTemporary)
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()
	caller, err := i.caller(ctx, info.SessionID)
	if err != nil {
		return nil, nil, nil, err
	}
	// The client asks for each file's size before its content.
	dir, err := os.MkdirTemp(i.worker.temp, mediaTemp)
	if err != nil {
		return nil, nil, nil, err
	}
	defer os.RemoveAll(dir)
	ps, err := exptypes.ParsePlatforms(src.Metadata)
	if err != nil {
		return nil, nil, nil, err
	}
	resp := map[string]string{}
	for _, p := range ps.Platforms {
		to := dir
		if len(ps.Platforms) > 1 {
			to = filepath.Join(dir, strings.ReplaceAll(p.ID, "/", "_"))
		}
		one, err := platform(src, p)
		if err != nil {
			return nil, nil, nil, err
		}
		if resp, err = i.write(ctx, to, one, info); err != nil {
			return nil, nil, nil, fmt.Errorf("%s: %w", p.ID, err)
		}
	}
	files, err := fsutil.NewFS(dir)
	if err != nil {
		return nil, nil, nil, err
	}
	sent := progress.OneOff(ctx, "sending "+i.medium.Format)
	return resp, nil, nil, sent(filesync.CopyToCaller(ctx, files, i.id, caller, nil))
}

// write makes os.<format> and its checksum in a new folder.
func (i *folderInstance) write(
	ctx context.Context,
	dir string,
	src *exporter.Source,
	info exporter.ExportBuildInfo,
) (map[string]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	name := "os." + i.medium.Format
	mode := os.FileMode(0o644)
	if len(i.medium.CloudConfig) > 0 {
		mode = 0o600 // it may have passwords and tokens
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sum := sha256.New()
	resp, err := i.worker.writeMedium(ctx, io.MultiWriter(f, sum), src, info, i.medium, i.sessions)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	line := hex.EncodeToString(sum.Sum(nil)) + "  " + name + "\n"
	return resp, os.WriteFile(filepath.Join(dir, name+".sha256"), []byte(line), 0o644)
}
