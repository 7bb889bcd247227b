package health

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// kubeletConfig is where a kubelet's configuration is, as kubeadm has it.
const kubeletConfig = "var/lib/kubelet/config.yaml"

// healthz is where the kubelet says that it lives: on loopback, port 10248, unless its configuration says otherwise;
// "" where it has that turned off.
//
// Source: KubeletConfiguration (kubelet.config.k8s.io/v1beta1), healthzPort and healthzBindAddress.
func (s System) healthz() (string, error) {
	c := struct {
		Port    uint16 `yaml:"healthzPort"`
		Address string `yaml:"healthzBindAddress"`
	}{10248, "127.0.0.1"}
	b, err := s.read(kubeletConfig)
	if err == nil {
		err = yaml.Unmarshal(b, &c)
	}
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("the kubelet's configuration /%s: %w", kubeletConfig, err)
	case c.Port == 0:
		return "", nil
	case c.Address == "0.0.0.0" || c.Address == "::":
		c.Address = "localhost"
	}
	return "http://" + net.JoinHostPort(c.Address, strconv.Itoa(int(c.Port))) + "/healthz", nil
}

const (
	maxCredentials = 1 << 20 // of a kubeconfig or a certificate, in bytes
	maxNode        = 8 << 20 // of a Node as JSON
	requestTimeout = 10 * time.Second
)

// kubelet wants the kubelet to live, and its node to be Ready, by the node's own credentials.
func (s System) kubelet(ctx context.Context) error {
	if err := s.kubeletLives(ctx); err != nil {
		return err
	}
	c, err := s.credentials()
	if errors.Is(err, fs.ErrNotExist) {
		return &notYet{"the node has not joined a cluster: the kubelet has no kubeconfig"}
	}
	if err != nil {
		return fmt.Errorf("the kubelet's credentials: %w", err)
	}
	body, err := request(ctx, c.tls, c.server+"/api/v1/nodes/"+url.PathEscape(c.node), c.token)
	if err != nil {
		return fmt.Errorf("ask the cluster for node %s: %w", c.node, err)
	}
	return ready(c.node, body)
}

func (s System) kubeletLives(ctx context.Context) error {
	healthz, err := s.healthz()
	if err != nil || healthz == "" {
		return err
	}
	body, err := request(ctx, nil, healthz, "")
	if err != nil {
		return &notYet{fmt.Sprintf("the kubelet does not answer: %v", err)}
	}
	if strings.TrimSpace(string(body)) != "ok" {
		return &notYet{fmt.Sprintf("the kubelet says %q", cut(body))}
	}
	return nil
}

// ready reads a Node.
func ready(name string, body []byte) error {
	var node struct {
		Status struct {
			Conditions []struct{ Type, Status, Reason, Message string }
		}
	}
	if err := json.Unmarshal(body, &node); err != nil {
		return fmt.Errorf("node %s: %w", name, err)
	}
	for _, c := range node.Status.Conditions {
		if c.Type == "Ready" {
			if c.Status == "True" {
				return nil
			}
			return &notYet{fmt.Sprintf("node %s is not Ready: %s", name, cut([]byte(c.Reason+": "+c.Message)))}
		}
	}
	return &notYet{fmt.Sprintf("node %s is not Ready: its kubelet has not said so yet", name)}
}

// request asks for an address and returns what it says, which is not to be trusted. trust may be nil.
func request(ctx context.Context, trust *tls.Config, address, token string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	client := http.Client{Transport: transport(trust), CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // credentials go where they belong
	}}
	answer, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxNode))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", answer.Status, cut(body))
	}
	return body, nil
}

func cut(b []byte) string {
	const most = 200
	if len(b) > most {
		b = b[:most]
	}
	return strings.ToValidUTF8(string(bytes.TrimSpace(b)), "?")
}
