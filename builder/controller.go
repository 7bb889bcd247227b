package builder

import (
	"context"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/cache/remotecache/inline"
	"github.com/moby/buildkit/cache/remotecache/local"
	"github.com/moby/buildkit/cache/remotecache/registry"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/frontend"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/util/apicaps"
	"github.com/moby/buildkit/util/db/boltutil"
	bkworker "github.com/moby/buildkit/worker"
	bolt "go.etcd.io/bbolt"
)

type controllerOptions struct {
	root         string
	worker       *worker
	hosts        docker.RegistryHosts
	sessions     *session.Manager
	entitlements []string
	repositories []string // that frontends may come from, all where it is empty
	proxyNetwork bool
	// keepHistory keeps records of builds, as history says or by BuildKit's defaults.
	keepHistory bool
	history     *config.HistoryConfig
}

func newController(ctx context.Context, o controllerOptions) (*control.Controller, error) {
	apicaps.ExportedProduct = "buildkit"
	workers := &bkworker.Controller{}
	if err := workers.Add(o.worker); err != nil {
		return nil, err
	}
	gw, err := gateway.NewGatewayFrontend(workers.Infos(), o.repositories)
	if err != nil {
		return nil, err
	}
	cache, err := bboltcachestorage.NewStore(filepath.Join(o.root, "cache.db"))
	if err != nil {
		return nil, err
	}
	history, err := boltutil.SafeOpen(filepath.Join(o.root, "history.db"), 0o600, &bolt.Options{
		FreelistType: bolt.FreelistMapType, NoFreelistSync: true,
	})
	if err != nil {
		return nil, err
	}
	if !o.keepHistory {
		o.history = &config.HistoryConfig{} // BuildKit's way to say none; nil is the default
	}
	return control.NewController(control.Opt{
		SessionManager:   o.sessions,
		WorkerController: workers,
		Frontends: map[string]frontend.Frontend{
			"dockerfile.v0": forwarder.NewGatewayForwarder(workers.Infos(), dockerfile.Build),
			"gateway.v0":    gw,
		},
		ResolveCacheExporterFuncs: map[string]remotecache.ResolveCacheExporterFunc{
			"registry": registry.ResolveCacheExporterFunc(o.sessions, o.hosts),
			"local":    local.ResolveCacheExporterFunc(o.sessions),
			"inline":   inline.ResolveCacheExporterFunc(),
		},
		ResolveCacheImporterFuncs: map[string]remotecache.ResolveCacheImporterFunc{
			"registry": registry.ResolveCacheImporterFunc(o.sessions, o.worker.ContentStore(), o.hosts),
			"local":    local.ResolveCacheImporterFunc(o.sessions),
		},
		CacheManager:   solver.NewCacheManager(ctx, "local", cache, bkworker.NewCacheResultStorage(workers)),
		Entitlements:   o.entitlements,
		HistoryDB:      history,
		CacheStore:     cache,
		LeaseManager:   o.worker.LeaseManager(),
		ContentStore:   o.worker.ContentStore(),
		HistoryConfig:  o.history,
		ProxyNetwork:   o.proxyNetwork,
		GarbageCollect: o.worker.GarbageCollect,
		GracefulStop:   ctx.Done(),
	})
}
