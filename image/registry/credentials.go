package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"

	"github.com/kairos-buildkit/kairos/internal/bounded"
)

// maxAuthFile bounds a file with credentials in bytes.
const maxAuthFile = 1 << 20

// userAuthFiles are where Docker and Podman keep the credentials of the user.
func userAuthFiles() []string {
	files := []string{filepath.Join(dockerconfig.Dir(), dockerconfig.ConfigFileName)}
	if f := os.Getenv("REGISTRY_AUTH_FILE"); f != "" {
		files = append(files, f)
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		files = append(files, filepath.Join(d, "containers/auth.json"))
	}
	return files
}

// credentials finds a user and a secret for a registry, where a file says so with the help of a
// docker-credential-… program. None is no error. Without a user, the secret is an identity token.
func credentials(files []string, host string) (user, secret string, err error) {
	if host == "registry-1.docker.io" {
		host = "docker.io"
	}
	for _, name := range files {
		b, err := readAuthFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", "", fmt.Errorf("credentials: %w", err)
		}
		file := configfile.New(name)
		if err := file.LoadFromReader(bytes.NewReader(b)); err != nil {
			return "", "", fmt.Errorf("credentials in %s: %w", name, err)
		}
		auth, err := file.GetAuthConfig(host)
		if err != nil {
			return "", "", fmt.Errorf("credentials for %s, as %s says: %w", host, name, err)
		}
		if plain, ok := file.AuthConfigs[host]; ok && auth.Username == "" && auth.IdentityToken == "" {
			auth = plain // docker.io by this name, which Docker itself writes differently
		}
		switch {
		case auth.IdentityToken != "":
			return "", auth.IdentityToken, nil
		case auth.Username != "" || auth.Password != "":
			return auth.Username, auth.Password, nil
		}
	}
	return "", "", nil
}

func readAuthFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := bounded.ReadAll(f, maxAuthFile)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return b, nil
}
