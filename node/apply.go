package node

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kairos-buildkit/kairos/layout"
)

// ApplyConfig makes the node's cloud-config take effect. /init calls it when everything is
// mounted and no service runs yet. An image's own cloud-init gets the config as its NoCloud
// seed; where there is none, this does the part of it that most nodes need: hostname, users,
// ssh_authorized_keys, write_files, runcmd.
func ApplyConfig(root string) error {
	boot, err := ReadBoot(root)
	if err != nil {
		return err
	}
	var errs []error
	if boot.Role != layout.RoleLive {
		errs = append(errs, keepIdentity(root))
	}
	c, err := NodeConfig(root, boot)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/cloud-init")); err == nil {
		if boot.Role != layout.RoleLive || len(c.All) > 0 {
			errs = append(errs, seedCloudInit(root, c))
		}
		return errors.Join(errs...)
	}
	b, err := yaml.Marshal(c.All)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	var w cloudConfig
	if err := yaml.Unmarshal(b, &w); err != nil {
		return errors.Join(append(errs, fmt.Errorf("cloud-config: %w", err))...)
	}
	return errors.Join(append(errs, w.apply(root))...)
}

// keepIdentity gives the node a machine-id and SSH host keys of its own at its first boot, and
// the same ones at all others.
func keepIdentity(root string) error {
	state := filepath.Join(root, layout.PersistentState)
	if err := os.MkdirAll(state, 0o755); err != nil {
		return err
	}
	kept := filepath.Join(state, "machine-id")
	id, err := os.ReadFile(kept)
	if err != nil || len(strings.TrimSpace(string(id))) != 32 {
		b := make([]byte, 16)
		rand.Read(b)
		b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // a version 4 UUID, as machine-id(5) wants
		id = []byte(hex.EncodeToString(b) + "\n")
		if err := writeSynced(kept, id, 0o444); err != nil {
			return fmt.Errorf("machine-id: %w", err)
		}
	}
	if err := replaceFile(filepath.Join(root, "etc/machine-id"), id, 0o444); err != nil {
		return fmt.Errorf("machine-id: %w", err)
	}
	return hostKeys(root, state)
}

// hostKeys makes SSH host keys at the node's first boot. Those of the image, which other nodes
// have too, go.
func hostKeys(root, state string) error {
	made := filepath.Join(state, "ssh-host-keys-made")
	if _, err := os.Stat(made); err == nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/ssh-keygen")); err != nil {
		return nil
	}
	old, err := filepath.Glob(filepath.Join(root, "etc/ssh/ssh_host_*"))
	if err != nil {
		return err
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			return fmt.Errorf("SSH host keys: %w", err)
		}
	}
	c := exec.Command("ssh-keygen", "-A")
	if root != "/" {
		c.Args = append(c.Args, "-f", root)
	}
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("SSH host keys: ssh-keygen: %w: %s", err, out)
	}
	if err := syncFS(filepath.Join(root, "etc/ssh")); err != nil {
		return err
	}
	return writeSynced(made, nil, 0o644)
}

// seedCloudInit leaves the config where cloud-init's NoCloud finds it. /var is new at each
// boot, so that each is the first one for cloud-init.
func seedCloudInit(root string, c Config) error {
	data, err := c.userData()
	if err != nil {
		return err
	}
	seed := "var/lib/cloud/seed/nocloud"
	for name, text := range map[string]string{
		seed + "/user-data":                   string(data),
		seed + "/meta-data":                   "instance-id: kairos\n",
		"etc/cloud/cloud.cfg.d/95-kairos.cfg": "datasource_list: [NoCloud, None]\nssh_deletekeys: false\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("seed cloud-init: %w", err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return fmt.Errorf("seed cloud-init: %w", err)
		}
	}
	return nil
}

// cloudConfig is the part of a cloud-config that is applied where there is no cloud-init.
type cloudConfig struct {
	Hostname   string        `yaml:"hostname"`
	FQDN       string        `yaml:"fqdn"`
	Users      []yaml.Node   `yaml:"users"` // a name, or a user
	Keys       []string      `yaml:"ssh_authorized_keys"`
	WriteFiles []fileToWrite `yaml:"write_files"`
	RunCmd     []yaml.Node   `yaml:"runcmd"` // a line for the shell, or a list of words
}

type fileToWrite struct {
	Path        string `yaml:"path"`
	Content     string `yaml:"content"`
	Encoding    string `yaml:"encoding"`
	Owner       string `yaml:"owner"`
	Permissions string `yaml:"permissions"`
	Append      bool   `yaml:"append"`
}

// runScript is where runcmd is left for a service to run when the system is up.
const runScript = layout.RunDir + "/runcmd"

func (c cloudConfig) apply(root string) error {
	var errs []error
	if name := c.Hostname; name != "" {
		errs = append(errs, replaceFile(filepath.Join(root, "etc/hostname"), []byte(name+"\n"), 0o644))
	}
	errs = append(errs, c.addUsers(root))
	for _, f := range c.WriteFiles {
		if err := f.write(root); err != nil {
			errs = append(errs, fmt.Errorf("write_files: %s: %w", f.Path, err))
		}
	}
	if len(c.RunCmd) > 0 {
		var b strings.Builder
		for _, n := range c.RunCmd {
			line, err := shellLine(n)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			b.WriteString(line + "\n")
		}
		errs = append(errs, os.WriteFile(filepath.Join(root, runScript), []byte(b.String()), 0o700))
	}
	return errors.Join(errs...)
}

func shellLine(n yaml.Node) (string, error) {
	if n.Kind == yaml.ScalarNode {
		return n.Value, nil
	}
	var words []string
	if err := n.Decode(&words); err != nil {
		return "", fmt.Errorf("runcmd: line %d: %w", n.Line, err)
	}
	for i, w := range words {
		words[i] = "'" + strings.ReplaceAll(w, "'", `'"'"'`) + "'"
	}
	return strings.Join(words, " "), nil
}

func (f fileToWrite) write(root string) error {
	data := []byte(f.Content)
	switch f.Encoding {
	case "", "text/plain":
	case "b64", "base64":
		var err error
		if data, err = base64.StdEncoding.DecodeString(strings.TrimSpace(f.Content)); err != nil {
			return err
		}
	default:
		return fmt.Errorf("encoding %q: want b64 or none", f.Encoding)
	}
	mode := uint64(0o644)
	if f.Permissions != "" {
		var err error
		if mode, err = strconv.ParseUint(f.Permissions, 8, 12); err != nil {
			return fmt.Errorf("permissions %q: want octal digits", f.Permissions)
		}
	}
	path := filepath.Join(root, f.Path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if f.Append {
		old, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		data = append(old, data...)
	}
	if err := replaceFile(path, data, fs.FileMode(mode)); err != nil {
		return err
	}
	if f.Owner == "" {
		return nil
	}
	uid, gid, err := owner(root, f.Owner)
	if err != nil {
		return err
	}
	return os.Chown(path, uid, gid)
}

// replaceFile writes a file; what had its name, a link perhaps, is replaced.
func replaceFile(path string, data []byte, mode fs.FileMode) error {
	temp := path + ".kairos"
	if err := os.WriteFile(temp, data, mode); err != nil {
		return err
	}
	if err := os.Chmod(temp, mode); err != nil { // whatever the umask is
		return err
	}
	return os.Rename(temp, path)
}

// writeSynced writes a file that has to be there after a power cut.
func writeSynced(path string, data []byte, mode fs.FileMode) error {
	if err := replaceFile(path, data, mode); err != nil {
		return err
	}
	return syncFS(filepath.Dir(path))
}
