package layout

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"
)

// Mount policy of an installed node, as the Kairos project has it. / is read-only; /init
// mounts the rest before it hands over.
const (
	// MountOEM is where OEM is mounted.
	MountOEM = "/oem"
	// MountPersistent is where PERSISTENT is mounted.
	MountPersistent = "/usr/local"
	// PersistentState holds what the persistent paths hold: /etc/ssh is etc-ssh.bind in it.
	PersistentState = MountPersistent + "/.state"
	// OEMMounts is a file on OEM that adds to the policy, see [Mounts].
	OEMMounts = "kairos-mounts.json"
)

// EphemeralPaths take writes that are gone at the next boot.
func EphemeralPaths() []string { return []string{"/etc", "/var", "/srv"} }

// PersistentPaths keep what is written to them. What the image has there stays visible
// until the node changes it: each is an overlay whose upper layer is in PersistentState. One
// where the image has nothing is a plain bind mount, so that container engines can put their
// own overlays there; it becomes an overlay, for good, with the first image that has something.
func PersistentPaths() []string {
	return []string{
		"/etc/cni", "/etc/init.d", "/etc/iscsi", "/etc/k0s", "/etc/kubernetes", "/etc/modprobe.d", "/etc/pwx",
		"/etc/rancher", "/etc/runlevels", "/etc/ssh", "/etc/ssl/certs", "/etc/sysconfig", "/etc/systemd", "/etc/zfs",
		"/home", "/opt", "/root", "/usr/libexec", "/var/cores", "/var/lib/ca-certificates", "/var/lib/calico",
		"/var/lib/cni", "/var/lib/containerd", "/var/lib/dbus", "/var/lib/etcd", "/var/lib/extensions", "/var/lib/k0s",
		"/var/lib/kairos", "/var/lib/kubelet", "/var/lib/longhorn", "/var/lib/osd", "/var/lib/rancher", "/var/lib/rook",
		"/var/lib/tailscale", "/var/lib/wicked", "/var/log", "/var/snap", "/snap",
	}
}

// StateName returns the name in PersistentState of a path.
func StateName(p string) string {
	return strings.ReplaceAll(strings.Trim(path.Clean(p), "/"), "/", "-") + ".bind"
}

// Mounts are paths that an installation's config adds to the policy.
type Mounts struct {
	Bind      []string `json:"bind,omitempty"`      // persistent
	Ephemeral []string `json:"ephemeral,omitempty"` // in memory
}

// ParseMounts reads OEMMounts.
func ParseMounts(b []byte) (Mounts, error) {
	var m Mounts
	if err := json.Unmarshal(b, &m); err != nil {
		return Mounts{}, fmt.Errorf("%s: %w", OEMMounts, err)
	}
	return m, m.Check()
}

// Check refuses paths that are not absolute, or that would hide the system.
func (m Mounts) Check() error {
	for _, p := range append(append([]string{}, m.Bind...), m.Ephemeral...) {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || p == "/usr" || p == "/proc" || p == "/sys" || p == "/dev" || p == "/run" {
			return fmt.Errorf("mount path %q: want a clean absolute path below the root", p)
		}
	}
	return nil
}

// Marshal returns the bytes of OEMMounts.
func (m Mounts) Marshal() []byte {
	b, _ := json.MarshalIndent(m, "", "  ") // strings cannot fail
	return append(b, '\n')
}
