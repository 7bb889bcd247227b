//go:build fleet

package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/kairos-buildkit/kairos/deploy/deploytest"
	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/operator"
)

const (
	deploy = "../../deploy/"
	system = "kairos-system"
)

// cluster is the API server of all tests, which one of them at a time may stop.
var cluster struct {
	env     *envtest.Environment
	dir     string
	admin   client.Client
	clients *kubernetes.Clientset // the admin's
	config  *rest.Config          // the admin's
	audit   string                // file with all requests of the operator's service account
	program string                // kairos-operator
	nodes   *kubelets
}

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		return 0, errors.New("KUBEBUILDER_ASSETS is not set: run `make test-fleet`, which builds what is there")
	}
	c := &cluster
	if c.dir, err = os.MkdirTemp("", "kairos-fleet-"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(c.dir)
	c.program = filepath.Join(c.dir, "kairos-operator")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", c.program, "../../cmd/kairos-operator")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build kairos-operator: %w\n%s", err, out)
	}
	stop, err := startServer(assets)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := install(ctx); err != nil {
		return 0, err
	}
	c.nodes = newKubelets(ctx)
	return m.Run(), nil
}

// auditPolicy has the API server write down what the operator asks it for, and nothing else.
const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ["system:serviceaccount:kairos-system:kairos-operator"]
- level: None
`

func startServer(assets string) (stop func() error, err error) {
	c := &cluster
	certs := filepath.Join(c.dir, "certs")
	policy := filepath.Join(c.dir, "audit.yaml")
	c.audit = filepath.Join(c.dir, "audit.log")
	err = errors.Join(os.Mkdir(certs, 0o700), os.WriteFile(policy, []byte(auditPolicy), 0o600))
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(c.dir, "kube-apiserver.log"))
	if err != nil {
		return nil, err
	}
	c.env = &envtest.Environment{ControlPlaneStartTimeout: 3 * time.Minute, ControlPlaneStopTimeout: patience}
	server := c.env.ControlPlane.GetAPIServer()
	c.env.ControlPlane.Etcd = &envtest.Etcd{}
	for name, path := range map[string]*string{
		"kube-apiserver": &server.Path, "etcd": &c.env.ControlPlane.Etcd.Path,
	} {
		// What a test leaves that is interrupted, or takes too long, ends with it.
		*path = filepath.Join(c.dir, name)
		text := fmt.Sprintf("#!/bin/sh\nexec setpriv --pdeathsig KILL %q \"$@\"\n", filepath.Join(assets, name))
		if err := os.WriteFile(*path, []byte(text), 0o700); err != nil {
			return nil, err
		}
	}
	server.CertDir, server.Out, server.Err = certs, log, log
	server.Configure().
		Disable("disable-admission-plugins"). // envtest has no service accounts, and ours are what is tested
		Set("enable-admission-plugins", "OwnerReferencesPermissionEnforcement").
		Set("audit-policy-file", policy).
		Set("audit-log-path", c.audit).
		Set("audit-log-maxsize", "2000") // MB: one file
	c.config, err = c.env.Start()
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("%w\n%s", err, text[max(0, len(text)-4096):])
	}
	scheme, err := operator.Scheme()
	if err == nil {
		c.admin, err = client.New(c.config, client.Options{Scheme: scheme})
	}
	if err == nil {
		c.clients, err = kubernetes.NewForConfig(c.config)
	}
	return func() error {
		stopServer()
		return c.env.ControlPlane.Etcd.Stop()
	}, err
}

// patience is how long the API server may take to end before it is killed: it waits a minute for open watches.
const patience = time.Second

// stopServer takes the API server away; what etcd has stays.
func stopServer() {
	_ = cluster.env.ControlPlane.APIServer.Stop() // which says that it had to kill it
}

// install does what `kubectl apply -k deploy` does, and what no controller-manager does here.
func install(ctx context.Context) error {
	objects, err := deploytest.Objects(deploy, deploytest.Image)
	if err != nil {
		return err
	}
	for _, o := range objects {
		// An API server takes no field here that the object's schema does not have.
		err := cluster.admin.Apply(ctx, client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("kubectl"))
		if err != nil {
			return fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	for _, ns := range []string{system, "default"} {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "default"}}
		if err := cluster.admin.Create(ctx, account); err != nil {
			return err
		}
	}
	served := func() error {
		return errors.Join(cluster.admin.List(ctx, &v1alpha1.NodeOpUpgradeList{}),
			cluster.admin.List(ctx, &v1alpha1.NodeOpList{}))
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if err := served(); err == nil || time.Now().After(end) {
			return err
		}
	}
}

// account is the configuration of who has the token of a service account; of a pod's, where pod is one.
func account(ctx context.Context, name string, pod *corev1.Pod) (*rest.Config, error) {
	request := &authv1.TokenRequest{}
	if pod != nil {
		request.Spec.BoundObjectRef = &authv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID,
		}
	}
	t, err := cluster.clients.CoreV1().ServiceAccounts(system).CreateToken(ctx, name, request, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("token of %s: %w", name, err)
	}
	config := rest.AnonymousClientConfig(cluster.config)
	config.BearerToken, config.QPS = t.Status.Token, -1
	return config, nil
}

// eventually waits until something is so; got says what is so instead.
func eventually(t *testing.T, within time.Duration, what string, is func() (ok bool, got string)) {
	t.Helper()
	var got string
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var ok bool
		if ok, got = is(); ok {
			return
		}
	}
	t.Fatalf("%s: not within %s: %s", what, within, got)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
