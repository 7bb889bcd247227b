package health

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
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

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(code int, body string) *http.Response {
	return &http.Response{StatusCode: code, Status: fmt.Sprint(code), Body: io.NopCloser(strings.NewReader(body))}
}

const (
	nodeReady = `{"status":{"conditions":[{"type":"MemoryPressure","status":"False"},` +
		`{"type":"Ready","status":"True"}]}}`
	nodeNotReady = `{"status":{"conditions":[{"type":"Ready","status":"False",` +
		`"reason":"KubeletNotReady","message":"no CNI"}]}}`
	nodeNew = `{"status":{}}`
)

// The node has to be Ready. What cannot be asked is neither.
func TestKubelet(t *testing.T) {
	refused := errors.New("connection refused")
	const pki = "{client-certificate: /pki/a.pem, client-key: /pki/a.pem}"
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
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := System{Root: t.TempDir(), Health: layout.Health{Checks: []string{layout.CheckKubelet}}}
				var asked [2]int
				s.transport = transport(func(r *http.Request) (*http.Response, error) {
					which, list := 0, c.healthz
					switch r.URL.String() {
					case healthz:
					case "https://10.0.0.1:6443/api/v1/nodes/n1":
						which, list = 1, c.node
					default:
						t.Errorf("asked %s", r.URL)
					}
					a := list.at(asked[which])
					asked[which]++
					switch a := a.(type) {
					case error:
						return nil, a
					case int:
						return answer(a, "sorry"), nil
					}
					return answer(200, a.(string)), nil
				})
				put(t, s.Root, "pki/a.pem", cert)
				if c.joins >= 0 {
					time.AfterFunc(c.joins, func() {
						put(t, s.Root, "etc/kubernetes/kubelet.conf",
							kubeconfigText("https://10.0.0.1:6443", pki))
					})
				}
				judge(t, s, time.Minute, c.want)
			})
		})
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
	s := System{}
	long := transport(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: io.NopCloser(io.LimitReader(zeros{}, 1<<40))}, nil
	})
	b, err := s.request(context.Background(), long, healthz, "")
	if err != nil || len(b) != maxNode {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
