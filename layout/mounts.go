package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
	// ImageConfigDir, in an image, and PersistentConfigDir have cloud-config files. Those in MountOEM count more.
	ImageConfigDir      = "/system/oem"
	PersistentConfigDir = MountPersistent + "/cloud-config"
	// KeptConfig, on PERSISTENT, is the last cloud-config that took effect in full, without its secrets. FetchedKeys
	// has a file for each account whose public keys were fetched. Both are relative to the root.
	KeptConfig  = PersistentState + "/last-config.yaml"
	FetchedKeys = PersistentState + "/ssh-keys"
	// OEMMounts is a file on OEM that adds to the policy, see [Mounts].
	OEMMounts = "kairos-mounts.json"
)

// Folder is a folder that an image has to have.
type Folder struct {
	Path string
	Mode fs.FileMode // permissions
}

// ImageFolders are the folders that the node's mounts need and that images may lack. (What is
// below /etc, /var and /srv can be made where the image runs.)
func ImageFolders() []Folder {
	return []Folder{
		{MountOEM, 0o755}, {MountPersistent, 0o755},
		{"/home", 0o755}, {"/opt", 0o755}, {"/root", 0o700}, {"/srv", 0o755}, {"/tmp", 0o777 | fs.ModeSticky},
	}
}

// EphemeralPaths take writes that are gone at the next boot.
func EphemeralPaths() []string { return []string{"/etc", "/var", "/srv"} }

// PersistentPaths keep what is written to them. What the image has there stays visible
// until the node changes it: each is an overlay whose upper layer is in PersistentState. One
// where the image has nothing is a plain bind mount; it becomes an overlay, for good, with the
// first image that has something. EnginePaths are never overlays.
func PersistentPaths() []string {
	return []string{
		"/etc/cni", "/etc/init.d", "/etc/iscsi", "/etc/k0s", "/etc/kubernetes", "/etc/modprobe.d", "/etc/pwx",
		"/etc/rancher", "/etc/runlevels", "/etc/ssh", "/etc/ssl/certs", "/etc/sysconfig", "/etc/systemd", "/etc/zfs",
		"/home", "/opt", "/root", "/var/cores", "/var/lib/ca-certificates", "/var/lib/calico",
		"/var/lib/cloud", "/var/lib/cni", "/var/lib/containerd", "/var/lib/containers", "/var/lib/dbus",
		"/var/lib/docker",
		"/var/lib/etcd", "/var/lib/extensions", "/var/lib/k0s",
		"/var/lib/kairos", "/var/lib/kubelet", "/var/lib/longhorn", "/var/lib/osd", "/var/lib/rancher",
		"/var/lib/rook",
		"/var/lib/tailscale", "/var/lib/wicked", "/var/log", "/var/snap", "/snap",
	}
}

// EnginePaths are the persistent paths where container engines keep overlays of their own, which the kernel does not
// stack upon ours. What an image has there is copied when it is new, and the copy is bound.
func EnginePaths() []string {
	return []string{
		"/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/k0s", "/var/lib/kubelet",
		"/var/lib/rancher",
	}
}

// RetiredPaths were persistent in earlier versions. What a node has changed there would hide a new image's programs:
// it is set aside in PersistentState, under the path's StateName with RetiredSuffix.
func RetiredPaths() []string { return []string{"/usr/libexec"} }

// RetiredSuffix ends the name of what was set aside.
const RetiredSuffix = ".retired"

// StateName returns the name in PersistentState of a path.
func StateName(p string) string {
	return strings.ReplaceAll(strings.Trim(path.Clean(p), "/"), "/", "-") + ".bind"
}

// Mounts are paths that an installation's config adds to the policy.
type Mounts struct {
	Bind      []string `json:"bind,omitempty"`      // persistent
	Ephemeral []string `json:"ephemeral,omitempty"` // in memory
}

// ParseMounts reads OEMMounts. It does not check the paths.
func ParseMounts(b []byte) (Mounts, error) {
	var m Mounts
	if err := json.Unmarshal(b, &m); err != nil {
		return Mounts{}, fmt.Errorf("%s: %w", OEMMounts, err)
	}
	return m, nil
}

// Check says which paths cannot be mounted, and why.
func (m Mounts) Check() error {
	_, errs := m.Usable()
	return errors.Join(errs...)
}

// Usable returns the paths that can be mounted, and why the others cannot: they are not clean, would hide the system,
// or would share a name in PersistentState with another one.
func (m Mounts) Usable() (Mounts, []error) {
	names := map[string]string{}
	for _, p := range append(append(PersistentPaths(), EphemeralPaths()...), RetiredPaths()...) {
		names[StateName(p)] = p
	}
	var errs []error
	check := func(paths []string) (usable []string) {
		for _, p := range paths {
			err := checkMount(p)
			if other, ok := names[StateName(p)]; err == nil && ok && other != p {
				err = fmt.Errorf(
					"mount path %q: %s has the same name (%s) where they are kept: rename one",
					p,
					other,
					StateName(p),
				)
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			names[StateName(p)] = p
			usable = append(usable, p)
		}
		return usable
	}
	return Mounts{Bind: check(m.Bind), Ephemeral: check(m.Ephemeral)}, errs
}

// notMounted are folders that a config mounts nothing on, nor below: programs that a release brings, and what others
// mount.
var notMounted = []string{
	"/bin", "/boot", "/dev", "/lib", "/lib32", "/lib64", "/libx32", "/oem", "/proc", "/run", "/sbin", "/sys", "/usr",
}

func checkMount(p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p || p == "/" {
		return fmt.Errorf("mount path %q: want a clean absolute path below the root", p)
	}
	if strings.ContainsFunc(p, func(r rune) bool { return strings.ContainsRune(`:,\`, r) || r < ' ' || r == 0x7f }) {
		return fmt.Errorf(`mount path %q: want one without ":", ",", "\" and control characters`, p)
	}
	if below(p, MountPersistent) {
		return nil // is persistent anyway
	}
	for _, dir := range notMounted {
		if below(p, dir) {
			return fmt.Errorf(
				"mount path %q: %s belongs to the release, or to the system that runs: take another folder",
				p,
				dir,
			)
		}
	}
	if strings.HasPrefix(StateName(p), strings.TrimSuffix(StateName(MountPersistent), ".bind")+"-") {
		return fmt.Errorf(
			"mount path %q: a folder of %s has the same name where they are kept: rename it",
			p,
			MountPersistent,
		)
	}
	return nil
}

// CheckMountPlace says whether a path of a config may be mounted on the folder at which it leads to in an image,
// through the image's links. The root may not, nor a folder of the release, nor one that such a folder lies in; where
// says where a folder is in the image.
func CheckMountPlace(p, at string, where func(string) string) error {
	if below(at, where(MountPersistent)) {
		return nil
	}
	for _, dir := range append([]string{"/"}, notMounted...) {
		if real := where(dir); below(at, real) && real != "/" || below(real, at) || at == "/" {
			return fmt.Errorf("mount path %q: in the image it leads to %s, and %s belongs to the release, or to the "+
				"system that runs: take another folder", p, at, dir)
		}
	}
	return nil
}

// below says whether a path is a folder, or in it.
func below(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// Marshal returns the bytes of OEMMounts.
func (m Mounts) Marshal() []byte {
	b, _ := json.MarshalIndent(m, "", "  ") // strings cannot fail
	return append(b, '\n')
}
