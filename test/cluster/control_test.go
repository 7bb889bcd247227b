//go:build vm && fleet

package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kairos-buildkit/kairos/fleet/operator"
)

const (
	hostAddress    = "10.0.2.2" // the host's loopback, as machines see it
	serviceAddress = "10.96.0.1"
	services       = "10.96.0.0/16"
)

// control is a control plane on loopback.
type control struct {
	port    int
	files   authority
	admin   client.Client
	clients *kubernetes.Clientset
	config  *rest.Config
}

// startControl starts a control plane that is empty, and ends with the test.
func startControl(t *testing.T, port int, files authority) *control {
	t.Helper()
	c := &control{port: port, files: files}
	c.etcd(t)
	c.config = files.client(t, c.url(), "admin", "system:masters")
	scheme, err := operator.Scheme()
	must(t, err)
	c.admin, err = client.New(c.config, client.Options{Scheme: scheme})
	must(t, err)
	c.clients, err = kubernetes.NewForConfig(c.config)
	must(t, err)
	eventually(t, 3*time.Minute, "the API server is ready", func() (bool, string) {
		_, err := c.clients.RESTClient().Get().AbsPath("/readyz").DoRaw(t.Context())
		return err == nil, fmt.Sprint(err)
	})
	spawn(t, "kube-controller-manager",
		"--kubeconfig="+c.kubeconfig(t, "system:kube-controller-manager"), "--leader-elect=false",
		"--secure-port=0", "--use-service-account-credentials", "--service-account-private-key-file="+files.key,
		"--root-ca-file="+files.cert, "--cluster-signing-cert-file="+files.cert,
		"--cluster-signing-key-file="+files.key,
		// Emulated nodes on a busy machine may miss a minute of heartbeats.
		"--node-monitor-grace-period=3m")
	spawn(t, "kube-scheduler", "--kubeconfig="+c.kubeconfig(t, "system:kube-scheduler"), "--leader-elect=false",
		"--secure-port=0")
	return c
}

func (c *control) url() string { return "https://127.0.0.1:" + strconv.Itoa(c.port) }

// etcd starts etcd and the API server.
func (c *control) etcd(t *testing.T) {
	t.Helper()
	peers, clients := "http://127.0.0.1:"+strconv.Itoa(freePort(t)), "http://127.0.0.1:"+strconv.Itoa(freePort(t))
	spawn(t, "etcd", "--data-dir="+t.TempDir(), "--listen-client-urls="+clients, "--advertise-client-urls="+clients,
		"--listen-peer-urls="+peers, "--initial-advertise-peer-urls="+peers, "--initial-cluster=default="+peers,
		"--unsafe-no-fsync", "--log-level=warn")
	cert, key := c.files.issue(t, &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP(hostAddress), net.ParseIP(serviceAddress)},
		DNSNames:    []string{"kubernetes.default.svc", "kubernetes.default", "localhost"},
	})
	spawn(t, "kube-apiserver", "--etcd-servers="+clients, "--bind-address=127.0.0.1",
		"--secure-port="+strconv.Itoa(c.port), "--advertise-address="+hostAddress, "--cert-dir="+t.TempDir(),
		"--tls-cert-file="+cert, "--tls-private-key-file="+key, "--client-ca-file="+c.files.cert,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--enable-bootstrap-token-auth", "--allow-privileged", "--service-cluster-ip-range="+services,
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+c.files.key,
		"--service-account-signing-key-file="+c.files.key)
}

// kubeconfig writes the credentials of a part of the control plane.
func (c *control) kubeconfig(t *testing.T, name string) string {
	t.Helper()
	config := c.files.client(t, c.url(), name)
	k := clientcmdapi.NewConfig()
	k.Clusters["c"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthority: config.CAFile}
	k.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificate: config.CertFile, ClientKey: config.KeyFile}
	k.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	k.CurrentContext = "x"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, clientcmd.WriteToFile(*k, file))
	return file
}

// spawn starts a program of Kubernetes, which ends with the test; its log is in build/vmlogs.
func spawn(t *testing.T, name string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(logDir, "cluster-"+name+".log"))
	must(t, err)
	// What a test leaves that is interrupted ends with it.
	args = append([]string{"--pdeathsig", "KILL", filepath.Join(kubernetesDir, name)}, args...)
	cmd := exec.Command("setpriv", args...)
	cmd.Stdout, cmd.Stderr = log, log
	must(t, errors.Join(cmd.Start(), log.Close()))
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		select {
		case err := <-ended:
			t.Errorf("%s ended: %v: see %s", name, err, log.Name())
		default:
			must(t, cmd.Process.Kill())
			<-ended
		}
	})
}

// authority is a cluster's certificate and its key, which also signs service accounts' tokens: files.
type authority struct{ cert, key string }

// newAuthority returns the authority in a folder, which is made where it is not there.
func newAuthority(dir string) (authority, error) {
	dir, err := filepath.Abs(dir) // a kubeconfig's paths are relative to itself
	if err != nil {
		return authority{}, err
	}
	a := authority{cert: filepath.Join(dir, "ca.crt"), key: filepath.Join(dir, "ca.key")}
	if made(a.key) {
		return a, nil
	}
	return a, a.write(&x509.Certificate{
		Subject: pkix.Name{CommonName: "kubernetes"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}, a.cert, a.key)
}

// issue writes a certificate and its key.
func (a authority) issue(t *testing.T, c *x509.Certificate) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "crt"), filepath.Join(dir, "key")
	c.KeyUsage = x509.KeyUsageDigitalSignature
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	must(t, a.write(c, cert, key))
	return cert, key
}

// client is who a certificate names.
func (a authority) client(t *testing.T, url, name string, groups ...string) *rest.Config {
	t.Helper()
	cert, key := a.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: groups}})
	return &rest.Config{Host: url, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAFile: a.cert, CertFile: cert, KeyFile: key}}
}

// write makes a certificate with a key of its own, signed by the authority or, where it is one, by itself.
func (a authority) write(c *x509.Certificate, certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	parent, signer := c, key
	if !c.IsCA {
		if parent, signer, err = a.read(); err != nil {
			return err
		}
	}
	if c.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		return err
	}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(7*24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalECPrivateKey(key)
	return errors.Join(err,
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: pkcs8}), 0o600))
}

func (a authority) read() (*x509.Certificate, *ecdsa.PrivateKey, error) {
	cert, err := os.ReadFile(a.cert)
	if err != nil {
		return nil, nil, err
	}
	key, err := os.ReadFile(a.key)
	if err != nil {
		return nil, nil, err
	}
	c, k := new(pem.Block), new(pem.Block)
	if c, _ = pem.Decode(cert); c == nil {
		return nil, nil, fmt.Errorf("%s: no PEM", a.cert)
	}
	if k, _ = pem.Decode(key); k == nil {
		return nil, nil, fmt.Errorf("%s: no PEM", a.key)
	}
	parsed, err := x509.ParseCertificate(c.Bytes)
	if err != nil {
		return nil, nil, err
	}
	signer, err := x509.ParseECPrivateKey(k.Bytes)
	return parsed, signer, err
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// eventually waits until something is so; got says what is so instead.
func eventually(t *testing.T, within time.Duration, what string, is func() (ok bool, got string)) {
	t.Helper()
	var got string
	began := time.Now()
	for end := began.Add(within); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		var ok bool
		if ok, got = is(); ok {
			t.Logf("%s %3.0f s: %s", time.Now().Format(time.TimeOnly), time.Since(began).Seconds(), what)
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
