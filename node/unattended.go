package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/datasource"
	"github.com/kairos-buildkit/kairos/node/provision"
)

// InstallWanted says whether an unattended installation is wanted: the boot menu's choice, else what the config says.
func (m *Machine) InstallWanted(auto bool) bool {
	b, err := os.ReadFile(m.path("proc/cmdline"))
	if err != nil {
		return auto
	}
	if v, ok := layout.ParseCmdline(string(b)).Get(layout.CmdlineInstall); ok {
		return v == layout.InstallAuto
	}
	return auto
}

// MediumConfig returns the cloud-config that an installation is to follow: what is embedded in the live medium, over
// it that of the volumes that are attached, see [datasource.Find], over it what kairos.config_url= names. All that are
// there count. Raw is what to keep of it on the node; it is empty where there is no config.
func (m *Machine) MediumConfig(ctx context.Context) (c *config.Config, raw []byte, err error) {
	var files []*config.File
	add := func(name string, b []byte) {
		files, raw = append(files, config.Parse(name, b)), b
	}
	b, err := os.ReadFile(filepath.Join(m.path(layout.RunStoreMount), layout.LiveCloudConfig))
	if err == nil {
		add("the medium's config", b)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	if err := m.awaitUdev(ctx); err != nil { // a volume's driver may be on its way
		return nil, nil, err
	}
	attached, err := datasource.Find(m.Root)
	if err != nil {
		return nil, nil, err
	}
	for _, a := range attached {
		if a.Err != nil {
			return nil, nil, fmt.Errorf("%s: %w", a.Name, a.Err)
		}
		add(a.Name, a.Data)
	}
	cmdline, err := os.ReadFile(m.path("proc/cmdline"))
	if err != nil {
		return nil, nil, err
	}
	words := layout.ParseCmdline(string(cmdline))
	if url, _ := words.Get(layout.CmdlineConfigURL); url != "" {
		digest, _ := words.Get(layout.CmdlineConfigSHA256)
		if url, err = m.address(url); err != nil {
			return nil, nil, err
		}
		if b, err = fetchConfig(ctx, url, digest); err != nil {
			return nil, nil, err
		}
		add(url, b)
	}
	c = config.Merge(files...)
	if len(files) > 1 && c.Report().Err() == nil {
		if raw, err = c.Value().YAML(); err != nil {
			return nil, nil, err
		}
	}
	return c, raw, nil
}

// address renders the template that kairos.config_url= may be.
func (m *Machine) address(url string) (string, error) {
	s, err := provision.Open(m.Root, m.Boot)
	if err == nil {
		defer s.Close()
		url, err = s.Address(url)
	}
	if err != nil {
		return "", fmt.Errorf("%s=: %w", layout.CmdlineConfigURL, err)
	}
	return url, nil
}

// fetchConfig fetches a config. The network may still be coming up. Whoever writes a config is root on the machine: so
// it comes by https, or has the digest that the command line states.
func fetchConfig(ctx context.Context, url, digest string) ([]byte, error) {
	switch {
	case !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://"):
		return nil, fmt.Errorf(
			"%s=%s: want https://, or http:// with %s=",
			layout.CmdlineConfigURL,
			url,
			layout.CmdlineConfigSHA256,
		)
	case digest == "" && strings.HasPrefix(url, "http://"):
		return nil, fmt.Errorf("%s=%s: anybody on the way can change it: use https://, or add %s= with its SHA-256",
			layout.CmdlineConfigURL, url, layout.CmdlineConfigSHA256)
	}
	var last error
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); {
		b, err := get(ctx, url)
		if err == nil {
			return b, checkConfigDigest(b, digest)
		}
		last = err
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(2 * time.Second):
		}
	}
	return nil, fmt.Errorf("fetch the cloud-config: %w", last)
}

func checkConfigDigest(b []byte, want string) error {
	if want == "" {
		return nil
	}
	if have := fmt.Sprintf("%x", sha256.Sum256(b)); !strings.EqualFold(have, want) {
		return fmt.Errorf("the cloud-config has the SHA-256 %s, and %s=%s", have, layout.CmdlineConfigSHA256, want)
	}
	return nil
}

func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return provision.Fetch(ctx, url, config.MaxSize)
}
