package health

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kairos-buildkit/kairos/layout"
)

// nodeCertificate is one as a cluster gives it to a node, with its key.
func nodeCertificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: k})
	pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: cert})
	return b.String()
}

// kubeconfigText is one; user is what its user has.
func kubeconfigText(server, user string) string {
	return `
apiVersion: v1
kind: Config
current-context: default
contexts: [{name: other, context: {cluster: x, user: y}}, {name: default, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "` + server + `"}}]
users: [{name: u, user: ` + user + `}]
`
}

const (
	nodeReady = `{"status":{"conditions":[{"type":"MemoryPressure","status":"False"},` +
		`{"type":"Ready","status":"True"}]}}`
	nodeNotReady = `{"status":{"conditions":[{"type":"Ready","status":"False",` +
		`"reason":"KubeletNotReady","message":"no CNI"}]}}`
	nodeNew = `{"status":{}}`
)

// replies answers requests: of a text with it, of a number with that status, of an error by a connection that ends.
func (a answers) replies(w http.ResponseWriter, n int) {
	switch a := a.at(n).(type) {
	case error:
		panic(http.ErrAbortHandler)
	case int:
		http.Error(w, "sorry", a)
	case string:
		io.WriteString(w, a)
	}
}

// The node has to be Ready. What cannot be asked is neither. The kubelet and the cluster are servers on loopback.
func TestKubelet(t *testing.T) {
	refused := errors.New("connection refused")
	cert := nodeCertificate(t)
	for name, c := range map[string]struct {
		healthz, node answers
		joins         time.Duration // when the kubeconfig is there; negative: never
		want          string
	}{
		"ready":            {answers{"ok"}, answers{nodeReady}, 0, ""},
		"becomes ready":    {answers{refused, "ok"}, answers{nodeNew, nodeNotReady, nodeReady}, time.Second, ""},
		"not ready":        {answers{"ok"}, answers{nodeNotReady}, 0, "no: n1 is not Ready: KubeletNotReady: no CNI"},
		"does not live":    {answers{refused}, answers{nodeReady}, 0, "no: the kubelet does not answer"},
		"is not well":      {answers{"failed"}, answers{nodeReady}, 0, `no: the kubelet says "failed"`},
		"never joins":      {answers{"ok"}, answers{nodeReady}, -1, "no: has not joined a cluster"},
		"hiccup":           {answers{"ok"}, answers{refused, 503, "no JSON", nodeReady}, 0, ""},
		"the cluster's no": {answers{"ok"}, answers{refused}, 0, "?: ask the cluster for node n1"},
		"no healthz":       {nil, answers{nodeReady}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var asked [2]atomic.Int32
			kubelet := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/healthz" {
					t.Errorf("asked the kubelet for %s", r.URL)
				}
				c.healthz.replies(w, int(asked[0].Add(1))-1)
			}))
			defer kubelet.Close()
			cluster := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/api/v1/nodes/n1" || len(r.TLS.PeerCertificates) != 1 {
					t.Errorf("asked the cluster for %s with %d certificates", r.URL, len(r.TLS.PeerCertificates))
				}
				c.node.replies(w, int(asked[1].Add(1))-1)
			}))
			cluster.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
			cluster.StartTLS()
			defer cluster.Close()
			s := System{Root: t.TempDir(), Health: layout.Health{Checks: []string{layout.CheckKubelet}}}
			put(t, s.Root, "pki/a.pem", cert)
			put(t, s.Root, "pki/ca.pem", string(pem.EncodeToMemory(
				&pem.Block{Type: "CERTIFICATE", Bytes: cluster.Certificate().Raw})))
			port := kubelet.Listener.Addr().(*net.TCPAddr).Port
			if c.healthz == nil {
				port = 0
			}
			put(t, s.Root, kubeletConfig, fmt.Sprintf("kind: KubeletConfiguration\nhealthzPort: %d\n", port))
			text := strings.Replace(
				kubeconfigText(cluster.URL, "{client-certificate: /pki/a.pem, client-key: /pki/a.pem}"),
				"{server:", "{certificate-authority: /pki/ca.pem, server:", 1)
			synctest.Test(t, func(t *testing.T) {
				if c.joins >= 0 {
					time.AfterFunc(c.joins, func() { put(t, s.Root, "etc/kubernetes/kubelet.conf", text) })
				}
				judge(t, s, time.Minute, c.want)
			})
		})
	}
}

// The kubelet's own configuration says where it is asked.
func TestHealthz(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "http://127.0.0.1:10248/healthz",
		"kind: x":                    "http://127.0.0.1:10248/healthz",
		"healthzPort: 1":             "http://127.0.0.1:1/healthz",
		"healthzPort: 0":             "",
		"healthzBindAddress: \"::\"": "http://localhost:10248/healthz",
		"healthzBindAddress: 1::2\nhealthzPort: 3": "http://[1::2]:3/healthz",
		"healthzPort: many":                        "error",
	} {
		s := System{Root: t.TempDir()}
		if text != "" {
			put(t, s.Root, kubeletConfig, text)
		}
		got, err := s.healthz()
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
}

// Each way in which a kubelet has its credentials.
func TestKubeconfig(t *testing.T) {
	cert := nodeCertificate(t)
	data := base64.StdEncoding.EncodeToString([]byte(cert))
	const files, own = "{client-certificate: /pki/a.pem, client-key: /pki/a.pem}", "var/lib/kubelet/kubeconfig"
	for name, c := range map[string]struct {
		path, text  string
		node, token string
		fails       string
	}{
		"kubeadm": {path: "etc/kubernetes/kubelet.conf", text: kubeconfigText("https://a:6443/", files), node: "n1"},
		"k3s": {path: "var/lib/rancher/k3s/agent/kubelet.kubeconfig",
			text: kubeconfigText("https://a:6443", files), node: "n1"},
		"k0s": {path: "var/lib/k0s/kubelet.conf", node: "n1",
			text: kubeconfigText("https://a:6443", "{client-certificate-data: "+data+", client-key-data: "+data+"}")},
		"token":   {path: own, text: kubeconfigText("https://a:6443", "{tokenFile: /pki/token}"), token: "secret"},
		"HTTP":    {path: own, text: kubeconfigText("http://a:6443", "{token: x}"), fails: "want https://"},
		"no YAML": {path: own, text: "a: [", fails: "yaml"},
		"no key":  {path: own, text: kubeconfigText("https://a", "{client-certificate: /x}"), fails: "no such file"},
	} {
		root := t.TempDir()
		put(t, root, "pki/a.pem", cert)
		put(t, root, "pki/token", "secret\n")
		put(t, root, c.path, c.text)
		got, err := System{Root: root}.credentials()
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || got.server != "https://a:6443" || c.node != "" && got.node != c.node ||
			got.token != c.token || got.node == "" || len(got.tls.Certificates) != min(len(c.node), 1) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := (System{Root: filepath.Join(t.TempDir())}).credentials(); err == nil {
		t.Error("credentials of no kubelet")
	}
}

// What a server says is read as far as a Node may be long.
func TestAnswersAreBounded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for some := make([]byte, 1<<20); ; {
			if _, err := w.Write(some); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	b, err := request(t.Context(), nil, server.URL, "")
	if err != nil || len(b) != maxNode {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}
