package health

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kairos-buildkit/kairos/internal/bounded"
)

// kubeconfigs are where kubeadm, k3s, RKE2, k0s and those who start a kubelet by hand have the kubelet's credentials.
var kubeconfigs = []string{
	"etc/kubernetes/kubelet.conf",
	"var/lib/rancher/k3s/agent/kubelet.kubeconfig",
	"var/lib/rancher/rke2/agent/kubelet.kubeconfig",
	"var/lib/k0s/kubelet.conf",
	"var/lib/kubelet/kubeconfig",
}

// credentials are those of a node in its cluster.
type credentials struct {
	server, node, token string
	tls                 *tls.Config
}

// kubeconfig is the part of a kubeconfig that says who a node is.
type kubeconfig struct {
	CurrentContext string `yaml:"current-context"`
	Contexts       []struct {
		Name    string
		Context struct{ Cluster, User string }
	}
	Clusters []struct {
		Name    string
		Cluster struct {
			Server string
			CA     string `yaml:"certificate-authority"`
			CAData string `yaml:"certificate-authority-data"`
			Name   string `yaml:"tls-server-name"`
		}
	}
	Users []struct {
		Name string
		User struct {
			Cert     string `yaml:"client-certificate"`
			CertData string `yaml:"client-certificate-data"`
			Key      string `yaml:"client-key"`
			KeyData  string `yaml:"client-key-data"`
			Token    string
			File     string `yaml:"tokenFile"`
		}
	}
}

// credentials reads those of the kubelet; the error is [fs.ErrNotExist] where there are none.
func (s System) credentials() (credentials, error) {
	for _, name := range kubeconfigs {
		b, err := s.read(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return credentials{}, err
		}
		c, err := s.parse(b)
		if err != nil {
			return c, fmt.Errorf("/%s: %w", name, err)
		}
		return c, nil
	}
	return credentials{}, fs.ErrNotExist
}

func (s System) parse(b []byte) (c credentials, err error) {
	var k kubeconfig
	if err := yaml.Unmarshal(b, &k); err != nil {
		return c, err
	}
	cluster, user := k.current()
	c.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	for _, x := range k.Clusters {
		if x.Name != cluster {
			continue
		}
		c.server, c.tls.ServerName = strings.TrimSuffix(x.Cluster.Server, "/"), x.Cluster.Name
		ca, err := s.material(x.Cluster.CAData, x.Cluster.CA)
		if err != nil {
			return c, err
		}
		if ca != nil {
			c.tls.RootCAs = x509.NewCertPool()
			c.tls.RootCAs.AppendCertsFromPEM(ca)
		}
	}
	if !strings.HasPrefix(c.server, "https://") {
		return c, fmt.Errorf("server %q: want https://", c.server)
	}
	for _, x := range k.Users {
		if x.Name != user {
			continue
		}
		u := x.User
		token, err := s.material("", u.File)
		if err != nil {
			return c, err
		}
		c.token = u.Token
		if token != nil {
			c.token = strings.TrimSpace(string(token))
		}
		cert, err := s.material(u.CertData, u.Cert)
		if err != nil {
			return c, err
		}
		key, err := s.material(u.KeyData, u.Key)
		if err != nil {
			return c, err
		}
		if cert != nil {
			if err := c.certificate(cert, key); err != nil {
				return c, err
			}
		}
	}
	if c.node == "" {
		if c.node, err = os.Hostname(); err != nil {
			return c, err
		}
	}
	return c, nil
}

// current returns the names of the cluster and the user that count.
func (k kubeconfig) current() (cluster, user string) {
	for _, c := range k.Contexts {
		if c.Name == k.CurrentContext || len(k.Contexts) == 1 {
			return c.Context.Cluster, c.Context.User
		}
	}
	return "", ""
}

// certificate takes a node's certificate, which says its name.
func (c *credentials) certificate(cert, key []byte) error {
	if key == nil {
		key = cert // as the kubelet keeps the one that it renews
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return err
	}
	c.tls.Certificates = []tls.Certificate{pair}
	block, _ := pem.Decode(cert)
	for rest := cert; block != nil && block.Type != "CERTIFICATE"; {
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return errors.New("no certificate")
	}
	x, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	c.node, _ = strings.CutPrefix(x.Subject.CommonName, "system:node:")
	return nil
}

// material returns what a kubeconfig has in itself, as base64, or in a file; nil: neither.
func (s System) material(data, file string) ([]byte, error) {
	if data != "" {
		return base64.StdEncoding.DecodeString(data)
	}
	if file == "" {
		return nil, nil
	}
	return s.read(strings.TrimPrefix(file, "/"))
}

// read reads a file of the system's root.
func (s System) read(name string) ([]byte, error) {
	name = filepath.Join(s.Root, name)
	return bounded.ReadFile(os.DirFS(filepath.Dir(name)), filepath.Base(name), maxCredentials)
}
