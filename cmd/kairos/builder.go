package main

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/util/appdefaults"
	"github.com/moby/buildkit/version"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kairos-buildkit/kairos/builder"
)

// daemonName is the name under which `kairos builder` stands in for BuildKit's daemon.
const daemonName = "buildkitd"

func newBuilderCommand(s streams) *cobra.Command {
	var f daemonFlags
	c := &cobra.Command{
		Use:   "builder",
		Short: "Run the builder as a daemon: BuildKit with the outputs iso, raw and qcow2",
		Long: `Runs the builder as a daemon that takes the place of buildkitd: same flags, same buildkitd.toml,
same clients. Its image is what "docker buildx create" takes:

  docker buildx create --name kairos --driver docker-container --driver-opt image=REGISTRY/kairos-builder:TAG

Called by the name buildkitd, kairos is this command.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.version {
				// buildx reads four words.
				_, err := fmt.Fprintln(
					s.out,
					daemonName,
					version.Package,
					version.Version,
					orUnknown(version.Revision),
				)
				return err
			}
			cfg, err := f.config(c.Flags())
			if err != nil {
				return usageError{err}
			}
			if err := setLog(cfg.Log, s); err != nil {
				return usageError{err}
			}
			return serve(c.Context(), cfg, f.insecureTCP)
		},
	}
	f.add(c.Flags())
	return c
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func serve(ctx context.Context, cfg config.Config, insecureTCP bool) error {
	logrus.Infof("kairos builder %s, BuildKit %s", ownVersion(), version.Version)
	return builder.Serve(ctx, cfg, insecureTCP)
}

func setLog(c config.LogConfig, s streams) error {
	logrus.SetOutput(s.err)
	switch c.Format {
	case "", "text":
		logrus.SetFormatter(&logrus.TextFormatter{FullTimestamp: true})
	case "json":
		logrus.SetFormatter(&logrus.JSONFormatter{})
	default:
		return fmt.Errorf("log format %q: use text or json", c.Format)
	}
	if c.Level == "" {
		return nil
	}
	level, err := logrus.ParseLevel(c.Level)
	if err != nil {
		return fmt.Errorf("log level: %w", err)
	}
	logrus.SetLevel(level)
	return nil
}

// daemonFlags are buildkitd's. What a flag says goes before what the file says.
type daemonFlags struct {
	version, rootless                          bool
	file, group, gcKeep                        string
	worker, containerdWorker                   string
	root, logFormat, logLevel                  string
	tlsCert, tlsKey, tlsCA                     string
	addresses, entitlements, labels, platforms []string
	cdiDirs                                    []string
	gc, cdiDisabled, cacheDebug                bool
	oci                                        config.OCIConfig
	proxyNetwork, trace, insecureTCP           bool
}

func (d *daemonFlags) add(f *pflag.FlagSet) {
	f.SortFlags = false
	f.BoolVarP(&d.version, "version", "v", false, "print the version")
	f.StringVar(&d.file, "config", filepath.Join(appdefaults.ConfigDir, "buildkitd.toml"), "configuration file")
	f.StringVar(&d.root, "root", appdefaults.Root, "state folder")
	f.StringArrayVar(
		&d.addresses,
		"addr",
		[]string{appdefaults.Address},
		"address to listen on, unix://PATH or tcp://HOST:PORT",
	)
	f.StringVar(&d.group, "group", "", "group that may use the socket")
	f.StringVar(&d.tlsCert, "tlscert", "", "TLS certificate")
	f.StringVar(&d.tlsKey, "tlskey", "", "TLS key")
	f.StringVar(&d.tlsCA, "tlscacert", "", "CA of the clients' certificates")
	f.BoolVar(
		&d.insecureTCP,
		"insecure-tcp",
		false,
		"listen on tcp:// without clients' certificates: whoever reaches the port is root here",
	)
	f.StringVar(&d.logFormat, "log-format", "text", "log format: text or json")
	f.StringVar(&d.logLevel, "log-level", "", "log level")
	f.StringArrayVar(
		&d.entitlements,
		"allow-insecure-entitlement",
		nil,
		"entitlement that builds may ask for: network.host, security.insecure or device",
	)
	f.BoolVar(&d.proxyNetwork, "proxy-network", false, "send all of the builds' traffic through a proxy")
	f.BoolVar(&d.rootless, "rootless", false, "settings for a user namespace")
	f.BoolVar(&d.oci.Rootless, "oci-worker-rootless", false, "settings for a user namespace")
	f.BoolVar(&d.oci.NoProcessSandbox, "oci-worker-no-process-sandbox", false, "no PID namespace for build steps")
	f.StringArrayVar(&d.labels, "oci-worker-labels", nil, "label of the worker, KEY=VALUE")
	f.StringVar(&d.oci.Snapshotter, "oci-worker-snapshotter", "auto", "snapshotter: overlayfs, native or auto")
	f.StringArrayVar(&d.platforms, "oci-worker-platform", nil, "platform that the worker says it runs")
	f.StringVar(&d.oci.Mode, "oci-worker-net", "auto", "network of build steps: auto, bridge, cni or host")
	f.StringVar(&d.oci.CNIConfigPath, "oci-cni-config-path", appdefaults.DefaultCNIConfigPath, "CNI configuration")
	f.StringVar(&d.oci.CNIBinaryPath, "oci-cni-binary-dir", appdefaults.DefaultCNIBinDir, "folder with CNI plugins")
	f.IntVar(&d.oci.CNIPoolSize, "oci-cni-pool-size", 0, "network namespaces to keep ready")
	f.StringVar(&d.oci.Binary, "oci-worker-binary", "", "OCI runtime")
	f.StringVar(&d.oci.ApparmorProfile, "oci-worker-apparmor-profile", "", "AppArmor profile of build steps")
	f.BoolVar(&d.oci.SELinux, "oci-worker-selinux", false, "label build steps for SELinux")
	f.IntVar(&d.oci.MaxParallelism, "oci-max-parallelism", 0, "build steps that may run at once")
	f.BoolVar(&d.gc, "oci-worker-gc", true, "collect garbage")
	f.StringVar(
		&d.gcKeep,
		"oci-worker-gc-keepstorage",
		"",
		"garbage collection's limits in MB: RESERVED[,FREE[,MAXIMUM]]",
	)
	// buildkitd has these, and the drivers pass them on: they choose what this builder is already.
	f.StringVar(&d.worker, "oci-worker", "auto", "the OCI worker, which is the only one: true or auto")
	f.StringVar(&d.containerdWorker, "containerd-worker", "auto", "there is no containerd worker: false or auto")
	f.BoolVar(&d.trace, "trace", false, "log level trace")
	for _, name := range []string{"debugaddr", "otel-socket-path"} {
		f.String(name, "", "accepted, and without effect")
	}
	f.BoolVar(&d.cdiDisabled, "cdi-disabled", false, "accepted, and without effect")
	f.StringArrayVar(&d.cdiDirs, "cdi-spec-dir", nil, "accepted, and without effect")
	f.BoolVar(&d.cacheDebug, "save-cache-debug", false, "accepted, and without effect")
}

// config reads the file and puts the flags over it.
func (d *daemonFlags) config(f *pflag.FlagSet) (config.Config, error) {
	cfg, err := config.LoadFile(d.file)
	if err != nil {
		return cfg, err
	}
	set(f, "root", &cfg.Root, d.root)
	set(f, "addr", &cfg.GRPC.Address, d.addresses)
	set(f, "log-format", &cfg.Log.Format, d.logFormat)
	set(f, "log-level", &cfg.Log.Level, d.logLevel)
	set(f, "tlscert", &cfg.GRPC.TLS.Cert, d.tlsCert)
	set(f, "tlskey", &cfg.GRPC.TLS.Key, d.tlsKey)
	set(f, "tlscacert", &cfg.GRPC.TLS.CA, d.tlsCA)
	set(f, "proxy-network", &cfg.ProxyNetwork, d.proxyNetwork)
	set(f, "allow-insecure-entitlement", &cfg.Entitlements, d.entitlements)
	oci := &cfg.Workers.OCI
	set(f, "rootless", &oci.Rootless, d.rootless)
	set(f, "oci-worker-rootless", &oci.Rootless, d.oci.Rootless)
	set(f, "oci-worker-no-process-sandbox", &oci.NoProcessSandbox, d.oci.NoProcessSandbox)
	set(f, "oci-worker-snapshotter", &oci.Snapshotter, d.oci.Snapshotter)
	set(f, "oci-worker-platform", &oci.Platforms, d.platforms)
	set(f, "oci-worker-net", &oci.Mode, d.oci.Mode)
	set(f, "oci-cni-config-path", &oci.CNIConfigPath, d.oci.CNIConfigPath)
	set(f, "oci-cni-binary-dir", &oci.CNIBinaryPath, d.oci.CNIBinaryPath)
	set(f, "oci-cni-pool-size", &oci.CNIPoolSize, d.oci.CNIPoolSize)
	set(f, "oci-worker-binary", &oci.Binary, d.oci.Binary)
	set(f, "oci-worker-apparmor-profile", &oci.ApparmorProfile, d.oci.ApparmorProfile)
	set(f, "oci-worker-selinux", &oci.SELinux, d.oci.SELinux)
	set(f, "oci-max-parallelism", &oci.MaxParallelism, d.oci.MaxParallelism)
	set(f, "oci-worker-gc", &oci.GC, &d.gc)
	//lint:ignore SA1019 old configuration files say it so
	if debug, err := f.GetBool("debug"); err == nil && debug || cfg.Debug {
		cfg.Log.Level = "debug"
	}
	if d.trace {
		cfg.Log.Level = "trace"
	}
	if d.worker == "false" || d.containerdWorker == "true" {
		return cfg, errors.New(
			"this builder has the OCI worker and no other: leave --oci-worker and --containerd-worker out",
		)
	}
	for _, e := range cfg.Entitlements {
		if e != "network.host" && e != "security.insecure" && e != "device" {
			return cfg, fmt.Errorf("entitlement %q: use network.host, security.insecure or device", e)
		}
	}
	if err := d.workerLabels(oci); err != nil {
		return cfg, err
	}
	if err := d.keepStorage(oci); err != nil {
		return cfg, err
	}
	return cfg, d.socketGroup(&cfg.GRPC)
}

// set puts a flag's value over the file's where the flag was given.
func set[T any](f *pflag.FlagSet, name string, to *T, value T) {
	if f.Changed(name) {
		*to = value
	}
}

func (d *daemonFlags) workerLabels(oci *config.OCIConfig) error {
	for _, l := range d.labels {
		key, value, ok := strings.Cut(l, "=")
		if !ok {
			return fmt.Errorf("--oci-worker-labels %s: want KEY=VALUE", l)
		}
		if oci.Labels == nil {
			oci.Labels = map[string]string{}
		}
		oci.Labels[key] = value
	}
	return nil
}

func (d *daemonFlags) keepStorage(oci *config.OCIConfig) error {
	if d.gcKeep == "" {
		return nil
	}
	limits := []*config.DiskSpace{&oci.GCReservedSpace, &oci.GCMinFreeSpace, &oci.GCMaxUsedSpace}
	for i, s := range strings.Split(d.gcKeep, ",") {
		mb, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		if err != nil || i >= len(limits) {
			return fmt.Errorf("--oci-worker-gc-keepstorage %s: want RESERVED[,FREE[,MAXIMUM]] in MB", d.gcKeep)
		}
		limits[i].Bytes = mb * 1e6
	}
	return nil
}

func (d *daemonFlags) socketGroup(grpc *config.GRPCConfig) error {
	if d.group == "" {
		return nil
	}
	id := d.group
	if g, err := user.LookupGroup(d.group); err == nil {
		id = g.Gid
	}
	gid, err := strconv.Atoi(id)
	if err != nil {
		return fmt.Errorf("--group %s: there is no such group", d.group)
	}
	grpc.GID = &gid
	return nil
}
