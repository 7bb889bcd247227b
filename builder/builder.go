// Package builder is a BuildKit daemon with the output type iso, to embed or to serve.
//
// It is put together from BuildKit's own parts, as cmd/buildkitd does it: an OCI worker (runc,
// overlay or native snapshots, containerd's content store), the Dockerfile and the gateway
// frontend, the solver and the control API. Three things are ours:
//
//   - [worker] answers Exporter("iso"), and the attribute format=iso of the type tar. See export.go.
//   - docker.io/library/kairos, the image that `# syntax=kairos` names, is made from the running
//     program and served inside the process. See self.go.
//   - An embedded builder listens nowhere: client and daemon talk through memory.
//
// State, by default below /var/lib/kairos:
//
//	builder/            BuildKit's: cache, snapshots, content
//	builder/layers/     a store (package store) with the layers that were converted to EROFS
package builder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/grpcerrors"
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto" // BuildKit's codec
	"github.com/moby/sys/userns"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
)

// Options of an embedded builder. The zero value works.
type Options struct {
	// Root is the state folder. Default: DefaultRoot().
	Root string
	// Frontend is the statically linked program that serves as the frontend's image.
	// Default: the running program.
	Frontend string
	// Entitlements that builds may ask for, as network.host.
	Entitlements []string
	// Sign signs what the outputs make of an image: media of one that trusts keys, and releases that are published. By
	// default the client's secret [SignKeySecret] does, where there is one.
	Sign Signer
	// Waiting is called once where another process uses the state folder, before Embed waits for it.
	Waiting func(root string)
}

// DefaultRoot is /var/lib/kairos/builder, or $XDG_DATA_HOME/kairos/builder for other users than root.
func DefaultRoot() string {
	if os.Geteuid() == 0 && os.Getenv("ROOTLESSKIT_STATE_DIR") == "" {
		return "/var/lib/kairos/builder"
	}
	data := os.Getenv("XDG_DATA_HOME")
	if data == "" {
		home, _ := os.UserHomeDir()
		data = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(data, "kairos", "builder")
}

// Builder is a running BuildKit daemon inside this process.
type Builder struct {
	lock       *flock.Flock
	controller *control.Controller
	sessions   *session.Manager
	server     *grpc.Server
	listener   *bufconn.Listener
	gc         func(context.Context) error
}

// Embed starts a builder inside this process. Nothing listens: Client is the only door. The
// builder lives until Close; ctx ends the wait for another process that uses the same state.
func Embed(ctx context.Context, o Options) (*Builder, error) {
	if err := Check(); err != nil {
		return nil, err
	}
	if o.Root == "" {
		o.Root = DefaultRoot()
	}
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("builder's state folder: %w", err)
	}
	lock := flock.New(filepath.Join(root, "lock"))
	locked, err := lock.TryLock()
	if err == nil && !locked {
		if o.Waiting != nil {
			o.Waiting(root)
		}
		_, err = lock.TryLockContext(ctx, 200*time.Millisecond)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the builder's state folder %s: %w", root, err)
	}
	b := &Builder{lock: lock}
	// An interruption ends the client's requests; the builder then cleans up behind them.
	if err := b.start(context.WithoutCancel(ctx), root, o); err != nil {
		_ = lock.Unlock()
		return nil, err
	}
	return b, nil
}

// Check says what this machine lacks to run build steps.
func Check() error {
	if os.Geteuid() != 0 {
		return errors.New(
			"building needs root, or root in a user namespace: run it with sudo, or with `rootlesskit kairos …`",
		)
	}
	for _, runc := range []string{"buildkit-runc", "runc"} {
		if _, err := exec.LookPath(runc); err == nil {
			return nil
		}
	}
	return errors.New("runc is missing, build steps run in it: install it, for example `apt-get install runc`")
}

func (b *Builder) start(ctx context.Context, root string, o Options) error {
	sessions, err := session.NewManager()
	if err != nil {
		return err
	}
	self := &selfImage{path: o.Frontend}
	// In a user namespace cgroups are the host's: steps run without limits.
	oci := config.OCIConfig{Rootless: userns.RunningInUserNS()}
	if oci.Rootless {
		oci.Mode = "host"
	}
	w, err := newWorker(ctx, workerOptions{
		root: root, hosts: self.hosts(nil), sessions: sessions, config: oci, sign: o.Sign,
	})
	if err != nil {
		return err
	}
	b.controller, err = newController(ctx, controllerOptions{
		root: root, worker: w, hosts: self.hosts(nil), sessions: sessions, entitlements: o.Entitlements,
	})
	if err != nil {
		return err
	}
	b.gc = w.collect
	b.sessions = sessions
	b.server = grpc.NewServer(serverOptions()...)
	b.controller.Register(b.server)
	b.listener = bufconn.Listen(1 << 20)
	go func() { _ = b.server.Serve(b.listener) }()
	return nil
}

func serverOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		// BuildKit's errors carry the place in the Dockerfile.
		grpc.ChainUnaryInterceptor(hideConfigs, grpcerrors.UnaryServerInterceptor),
		grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
	}
}

// maxMessage is BuildKit's bound for one message: source files travel inside.
const maxMessage = 16 << 20

// Client returns a client of the builder.
func (b *Builder) Client(ctx context.Context) (*client.Client, error) {
	return client.New(ctx, "passthrough:///embedded",
		client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return b.listener.DialContext(ctx)
		}),
		// Sessions carry the build context and the finished files: straight, not inside
		// a stream of the control API.
		client.WithSessionDialer(func(ctx context.Context, _ string, meta map[string][]string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() { _ = b.sessions.HandleConn(context.WithoutCancel(ctx), theirs, meta) }()
			return ours, nil
		}),
	)
}

// Close waits for what still runs, frees cache beyond the limits and lets go of the state.
func (b *Builder) Close() error {
	stop(b.server)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(b.gc(ctx), b.controller.Close(), b.lock.Unlock())
}
