package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/exporter/containerimage"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/appdefaults"
	"github.com/moby/buildkit/util/archutil"
	"github.com/moby/buildkit/util/disk"
	"github.com/moby/buildkit/util/network/cniprovider"
	"github.com/moby/buildkit/util/network/netproviders"
	"github.com/moby/buildkit/version"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/buildkit/worker/runc"
	"golang.org/x/sync/semaphore"
)

// worker is BuildKit's OCI worker with our exporters.
type worker struct {
	*base.Worker
	images *containerimage.ImageWriter
	layers string // folder of the store with converted layers
	temp   string // folder for files on their way to a client
	sign   Signer // of who runs this builder for himself; nil in a daemon
}

type workerOptions struct {
	root     string
	hosts    docker.RegistryHosts
	sessions *session.Manager
	config   config.OCIConfig
	dns      *oci.DNSConfig
	sign     Signer
}

func newWorker(ctx context.Context, o workerOptions) (*worker, error) {
	snapshotter, err := snapshotter(o.root, o.config.Snapshotter)
	if err != nil {
		return nil, err
	}
	mode := oci.ProcessSandbox
	if o.config.NoProcessSandbox {
		if !o.config.Rootless {
			return nil, errors.New("no-process-sandbox needs rootless")
		}
		mode = oci.NoProcessSandbox
	}
	network := netproviders.Opt{Mode: o.config.Mode, CNI: cniprovider.Opt{
		Root:         o.root,
		ConfigPath:   o.config.CNIConfigPath,
		BinaryDir:    o.config.CNIBinaryPath,
		PoolSize:     o.config.CNIPoolSize,
		BridgeName:   o.config.BridgeName,
		BridgeSubnet: o.config.BridgeSubnet,
	}}
	if network.CNI.ConfigPath == "" {
		network.CNI.ConfigPath, network.CNI.BinaryDir = appdefaults.DefaultCNIConfigPath, appdefaults.DefaultCNIBinDir
	}
	if network.Mode == "" {
		network.Mode = "auto"
	}
	var parallel *semaphore.Weighted
	if n := o.config.MaxParallelism; n > 0 {
		parallel = semaphore.NewWeighted(int64(n))
	}
	opt, err := runc.NewWorkerOpt(o.root, snapshotter, o.config.Rootless, mode, o.config.Labels, nil, network, o.dns,
		o.config.Binary, o.config.ApparmorProfile, o.config.SELinux, parallel, "", o.config.DefaultCgroupParent, nil)
	if err != nil {
		return nil, fmt.Errorf("builder: %w", err)
	}
	opt.RegistryHosts = o.hosts
	// What this machine runs, with emulators where the kernel knows some.
	opt.Platforms = archutil.SupportedPlatforms(true)
	if len(o.config.Platforms) > 0 {
		opt.Platforms = nil
		for _, s := range o.config.Platforms {
			p, err := platforms.Parse(s)
			if err != nil {
				return nil, fmt.Errorf("builder: platform %s: %w", s, err)
			}
			opt.Platforms = append(opt.Platforms, platforms.Normalize(p))
		}
	}
	opt.GCPolicy = gcPolicy(o.config.GCConfig, o.root)
	opt.BuildkitVersion = client.BuildkitVersion{
		Package:  version.Package,
		Version:  version.Version,
		Revision: version.Revision,
	}

	// What a process that was killed left behind.
	if left, err := filepath.Glob(filepath.Join(o.root, mediaTemp)); err == nil {
		for _, dir := range left {
			_ = os.RemoveAll(dir)
		}
	}
	w := &worker{layers: LayersFolder(o.root), temp: o.root, sign: o.sign}
	// Our own writer with the worker's parts: the worker's is private to it.
	w.images, err = containerimage.NewImageWriter(containerimage.WriterOpt{
		Snapshotter:  opt.Snapshotter,
		ContentStore: opt.ContentStore,
		Applier:      opt.Applier,
		Differ:       opt.Differ,
	})
	if err != nil {
		return nil, err
	}
	if w.Worker, err = base.NewWorker(ctx, opt); err != nil {
		return nil, fmt.Errorf("builder: %w", err)
	}
	return w, nil
}

// snapshotter picks overlay where the kernel has it for this folder, else copies.
func snapshotter(root, name string) (runc.SnapshotterFactory, error) {
	if name == "" || name == "auto" {
		name = "overlayfs"
		if err := overlayutils.Supported(root); err != nil {
			name = "native"
		}
	}
	switch name {
	case "overlayfs":
		return runc.SnapshotterFactory{Name: name, New: func(root string) (snapshots.Snapshotter, error) {
			return overlay.NewSnapshotter(root, overlay.AsynchronousRemove)
		}}, nil
	case "native":
		return runc.SnapshotterFactory{Name: name, New: native.NewSnapshotter}, nil
	default:
		return runc.SnapshotterFactory{}, fmt.Errorf("snapshotter %q: use overlayfs, native or auto", name)
	}
}

// gcPolicy is BuildKit's: limits that follow from the disk's size.
func gcPolicy(cfg config.GCConfig, root string) []client.PruneInfo {
	if cfg.GC != nil && !*cfg.GC {
		return nil
	}
	stat, _ := disk.GetDiskStat(root)
	policy := cfg.GCPolicy
	if len(policy) == 0 {
		policy = config.DefaultGCPolicy(cfg, stat)
	}
	var out []client.PruneInfo
	for _, rule := range policy {
		out = append(out, client.PruneInfo{
			Filter:        rule.Filters,
			All:           rule.All,
			KeepDuration:  rule.KeepDuration.Duration,
			ReservedSpace: rule.ReservedSpace.AsBytes(stat),
			MaxUsedSpace:  rule.MaxUsedSpace.AsBytes(stat),
			MinFreeSpace:  rule.MinFreeSpace.AsBytes(stat),
		})
	}
	return out
}

// collect frees what is beyond the policy's limits. The daemon's own collector runs minutes
// after a build, when an embedded builder is long gone.
func (w *worker) collect(ctx context.Context) error {
	freed := make(chan client.UsageInfo, 32)
	go func() {
		for range freed {
		}
	}()
	defer close(freed)
	if policy := w.GCPolicy(); len(policy) > 0 {
		return w.Prune(ctx, freed, policy...)
	}
	return nil
}
