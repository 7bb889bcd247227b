package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// MediumConfig returns the cloud-config that a live medium was given: the one that is
// embedded in it, else a volume labelled cidata, else what kairos.config_url= names. Nil
// means that there is none.
func (m *Machine) MediumConfig(ctx context.Context) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(m.path(layout.RunStoreMount), layout.LiveCloudConfig))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	if b, err := m.cidata(); b != nil || err != nil {
		return b, err
	}
	cmdline, err := os.ReadFile(m.path("proc/cmdline"))
	if err != nil {
		return nil, err
	}
	if url, ok := layout.ParseCmdline(string(cmdline)).Get(layout.CmdlineConfigURL); ok && url != "" {
		return fetchConfig(ctx, url)
	}
	return nil, nil
}

// cidata reads user-data from a volume labelled cidata, as NoCloud has it.
func (m *Machine) cidata() ([]byte, error) {
	for _, label := range []string{"cidata", "CIDATA"} {
		device, err := filepath.EvalSymlinks("/dev/disk/by-label/" + label)
		if err != nil {
			continue
		}
		for _, kind := range []string{"iso9660", "vfat", "ext4"} {
			dir, err := m.mounts.mountReadOnly("cidata", device, kind)
			if err != nil {
				continue
			}
			b, err := os.ReadFile(filepath.Join(dir, "user-data"))
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil
			}
			return b, err
		}
	}
	return nil, nil
}

func (m *mounts) mountReadOnly(name, device, kind string) (string, error) {
	at := mounted{name: name, device: device, fs: kind, dir: filepath.Join(mountDir, name)}
	if err := os.MkdirAll(at.dir, 0o700); err != nil {
		return "", err
	}
	if err := unix.Mount(device, at.dir, kind, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return "", err
	}
	m.list = append(m.list, at)
	return at.dir, nil
}

// fetchConfig fetches a config. The network may still be coming up.
func fetchConfig(ctx context.Context, url string) ([]byte, error) {
	if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
		return nil, fmt.Errorf("%s=%s: want http:// or https://", layout.CmdlineConfigURL, url)
	}
	var last error
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); {
		b, err := get(ctx, url)
		if err == nil {
			return b, nil
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

func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, res.Status)
	}
	const most = 16 << 20
	b, err := io.ReadAll(io.LimitReader(res.Body, most+1))
	if err == nil && len(b) > most {
		err = fmt.Errorf("%s: more than %d bytes", url, most)
	}
	return bytes.TrimSpace(b), err
}
