package node

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/distribution/reference"
)

// RegistryOptions say how registries are reached. The zero value reads the node's own
// configuration.
type RegistryOptions struct {
	// HostsDir has a folder for each registry with hosts.toml and certificates, in
	// containerd's layout: mirrors, CAs, plain HTTP. Empty: /etc/containerd/certs.d.
	HostsDir string
	// AuthFiles are in the form of Docker's config.json. Empty: /etc/kairos/auth.json, then
	// root's own.
	AuthFiles []string
}

func (o RegistryOptions) resolver(ctx context.Context) remotes.Resolver {
	dir := o.HostsDir
	if dir == "" {
		dir = "/etc/containerd/certs.d"
	}
	files := o.AuthFiles
	if files == nil {
		files = []string{"/etc/kairos/auth.json", "/oem/auth.json", "/root/.docker/config.json"}
	}
	return docker.NewResolver(docker.ResolverOptions{
		Hosts: config.ConfigureHosts(ctx, config.HostOptions{
			HostDir:     config.HostDirFromRoot(filepath.Clean(dir)),
			Credentials: func(host string) (string, string, error) { return credentials(files, host) },
		}),
	})
}

// clockHint says what to do where a registry's certificate is refused because this machine's clock is
// before the certificate's time, as it is in 1970 on a machine without a battery.
func clockHint(err error) string {
	var invalid x509.CertificateInvalidError
	now := time.Now()
	if !errors.As(err, &invalid) || invalid.Reason != x509.Expired || !now.Before(invalid.Cert.NotBefore) {
		return ""
	}
	return fmt.Sprintf(": the clock of this machine says %s: set it (timedatectl, or a time server)", now.Format(time.DateTime))
}

// credentials finds a user and a secret for a registry. None is no error.
func credentials(files []string, host string) (user, secret string, err error) {
	keys := []string{host}
	if host == "registry-1.docker.io" {
		keys = append(keys, "docker.io", "https://index.docker.io/v1/")
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		var c struct {
			Auths map[string]struct {
				Auth, Username, Password, IdentityToken string
			}
		}
		if err := json.Unmarshal(b, &c); err != nil {
			return "", "", fmt.Errorf("credentials in %s: %w", name, err)
		}
		for _, key := range keys {
			a, ok := c.Auths[key]
			if !ok {
				a, ok = c.Auths["https://"+key]
			}
			if !ok {
				continue
			}
			if a.IdentityToken != "" {
				return "", a.IdentityToken, nil
			}
			if a.Auth != "" {
				both, err := base64.StdEncoding.DecodeString(a.Auth)
				if err != nil {
					return "", "", fmt.Errorf("credentials for %s in %s: %w", host, name, err)
				}
				a.Username, a.Password, _ = strings.Cut(string(both), ":")
			}
			return a.Username, a.Password, nil
		}
	}
	return "", "", nil
}

// fullReference completes a reference as people write it.
func fullReference(s string) (string, error) {
	named, err := reference.ParseDockerRef(s)
	if err != nil {
		return "", fmt.Errorf("image %q: %w", s, err)
	}
	return named.String(), nil
}

func short(digest string) string {
	_, hex, ok := strings.Cut(digest, ":")
	if ok && len(hex) > 12 {
		return hex[:12]
	}
	return digest
}
