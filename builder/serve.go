package builder

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys"
	"github.com/gofrs/flock"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/appdefaults"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// Serve runs the builder as a daemon, configured as buildkitd is, until ctx ends. It is for
// clients that expect buildkitd: buildx, buildctl, a container engine.
//
// Whoever builds is root on this machine. On TCP that is only who has a certificate of the configured
// CA, unless insecureTCP says that anybody may.
func Serve(ctx context.Context, cfg config.Config, insecureTCP bool) error {
	if err := Check(); err != nil {
		return err
	}
	setDefaults(&cfg)
	root, err := filepath.Abs(cfg.Root)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(root, "buildkitd.lock"))
	if locked, err := lock.TryLock(); err != nil {
		return fmt.Errorf("lock %s: %w", root, err)
	} else if !locked {
		return fmt.Errorf("state folder %s: another builder is using it: give this one its own with --root", root)
	}
	defer lock.Unlock() //nolint:errcheck // the process ends

	listeners, err := listen(cfg.GRPC, insecureTCP)
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	server, closeAll, err := newServer(ctx, root, cfg)
	if err != nil {
		return err
	}
	eg, egCtx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		eg.Go(func() error { return server.Serve(l) })
	}
	<-egCtx.Done()
	stop(server)
	err = eg.Wait()
	if ctx.Err() != nil {
		err = nil // it was asked to end
	}
	return errors.Join(err, closeAll())
}

// newServer puts worker, controller and gRPC server together.
func newServer(ctx context.Context, root string, cfg config.Config) (*grpc.Server, func() error, error) {
	sessions, err := session.NewManager()
	if err != nil {
		return nil, nil, err
	}
	self := &selfImage{}
	w, err := newWorker(ctx, workerOptions{
		root: root, hosts: self.hosts(cfg.Registries), sessions: sessions, config: cfg.Workers.OCI,
		dns: dnsConfig(cfg.DNS),
	})
	if err != nil {
		return nil, nil, err
	}
	history := cfg.History
	controller, err := newController(ctx, controllerOptions{
		root: root, worker: w, hosts: self.hosts(cfg.Registries), sessions: sessions,
		entitlements: cfg.Entitlements, keepHistory: true, history: history,
		repositories: cfg.Frontends.Gateway.AllowedRepositories, proxyNetwork: cfg.ProxyNetwork,
	})
	if err != nil {
		return nil, nil, err
	}
	server := grpc.NewServer(serverOptions()...)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	controller.Register(server)
	return server, controller.Close, nil
}

// stop waits for what runs, for as long as a container engine waits before it kills.
func stop(server *grpc.Server) {
	stopped := make(chan struct{})
	go func() { server.GracefulStop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(10 * time.Second):
		server.Stop()
	}
}

func setDefaults(cfg *config.Config) {
	if cfg.Root == "" {
		cfg.Root = appdefaults.Root
	}
	if len(cfg.GRPC.Address) == 0 {
		cfg.GRPC.Address = []string{appdefaults.Address}
	}
	network := &cfg.Workers.OCI.NetworkConfig
	if network.Mode == "auto" && cfg.Workers.OCI.Rootless {
		network.Mode = "host"
	}
	if network.BridgeName == "" {
		network.BridgeName, network.BridgeSubnet = appdefaults.BridgeName, appdefaults.BridgeSubnet
	}
}

func dnsConfig(c *config.DNSConfig) *oci.DNSConfig {
	if c == nil {
		return nil
	}
	return &oci.DNSConfig{Nameservers: c.Nameservers, Options: c.Options, SearchDomains: c.SearchDomains}
}

// listen opens all addresses, unix:// and tcp://.
func listen(cfg config.GRPCConfig, insecureTCP bool) (listeners []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
		}
	}()
	tlsConfig, err := serverTLS(cfg.TLS)
	if err != nil {
		return nil, err
	}
	uid, gid := os.Getuid(), os.Getgid()
	if cfg.UID != nil {
		uid = *cfg.UID
	}
	if cfg.GID != nil {
		gid = *cfg.GID
	}
	for _, address := range cfg.Address {
		scheme, where, ok := strings.Cut(address, "://")
		var l net.Listener
		switch {
		case ok && scheme == "unix":
			l, err = sys.GetLocalListener(where, uid, gid)
		case ok && scheme == "tcp" && (tlsConfig == nil || tlsConfig.ClientCAs == nil) && !insecureTCP:
			err = errors.New("whoever reaches this port would be root on this machine: " +
				"give --tlscert, --tlskey and --tlscacert, or say --insecure-tcp if everybody there may")
		case ok && scheme == "tcp":
			if l, err = net.Listen("tcp", where); err == nil && tlsConfig != nil {
				l = tls.NewListener(l, tlsConfig)
			}
		default:
			err = fmt.Errorf("use unix://PATH or tcp://HOST:PORT")
		}
		if err != nil {
			return listeners, fmt.Errorf("listen on %s: %w", address, err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// serverTLS wants a certificate of every client where there is a CA to check it with.
func serverTLS(cfg config.TLSConfig) (*tls.Config, error) {
	if cfg.Cert == "" && cfg.Key == "" {
		if cfg.CA != "" {
			return nil, errors.New("--tlscacert needs --tlscert and --tlskey")
		}
		return nil, nil
	}
	if cfg.Cert == "" || cfg.Key == "" {
		return nil, errors.New("--tlscert and --tlskey need each other")
	}
	cert, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate: %w", err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	if cfg.CA != "" {
		pem, err := os.ReadFile(cfg.CA)
		if err != nil {
			return nil, fmt.Errorf("TLS client CA: %w", err)
		}
		c.ClientCAs = x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("TLS client CA %s: no certificate in it", cfg.CA)
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return c, nil
}
