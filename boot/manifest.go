package boot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki/pcr"
)

// Manifest is the content of [layout.ImageBootManifest]: what the boot files were made from. All
// digests are SHA-256 in hex.
type Manifest struct {
	Kernel struct {
		Version string `json:"version"`
		Path    string `json:"path"`
		Digest  string `json:"digest"` // of the file
		// Compression is the best that it reads of a layer's blob.
		Compression string `json:"compression,omitempty"`
		// Chosen: a person chose it, by a label, or by a link /boot/vmlinuz before Kairos made its own.
		Chosen bool `json:"chosen,omitempty"`
	} `json:"kernel"`
	// Modules is a digest of the files that the initrd took, as they are in the image, and of
	// their dependencies.
	Modules string `json:"modules"`
	Init    string `json:"init"`
	// Release is the newest format of release.json that Init reads, 0 for the first: see [layout.ReleaseSchema].
	Release int `json:"release,omitempty"`
	// RecoveryTrial says that the image ends its trial as a recovery system by itself, see [EndsRecoveryTrial].
	RecoveryTrial bool `json:"recoveryTrial,omitempty"`
	// Encryption says that kernel and Init open encrypted partitions, see [OpensEncrypted].
	Encryption bool   `json:"encryption,omitempty"`
	Stub       string `json:"stub"`
	Cmdline    string `json:"cmdline"`
	// Profiles is a digest of the UKI's profiles.
	Profiles string `json:"profiles,omitempty"`
	// Trust is a digest of the initrd's [layout.InitrdTrust]; empty where it has none.
	Trust string `json:"trust,omitempty"`
	// SecureBoot is a digest of the certificate whose key has signed the UKI; empty where it is not signed.
	SecureBoot string `json:"secureBoot,omitempty"`
	// PCRKey is a digest of the public key whose signatures for a TPM the UKI has; empty where it has none.
	PCRKey string `json:"pcrKey,omitempty"`
	// Outputs are the boot files by their paths.
	Outputs map[string]string `json:"outputs"`
}

// Marshal returns the manifest's bytes.
func (m Manifest) Marshal() []byte {
	b, _ := json.MarshalIndent(m, "", "  ") // strings cannot fail
	return append(b, '\n')
}

// ParseManifest reads a manifest.
func ParseManifest(b []byte) (Manifest, error) {
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&m); err != nil {
		return Manifest{}, fmt.Errorf("/%s: %w", layout.ImageBootManifest, err)
	}
	return m, nil
}

func readManifest(t tree) (Manifest, error) {
	b, err := t.readFile(layout.ImageBootManifest, maxText)
	if err != nil {
		return Manifest{}, err
	}
	return ParseManifest(b)
}

// ReadsRelease returns the newest format of release.json that the /init of the image's boot layer reads, 1 where
// nothing says that it reads a newer one.
func ReadsRelease(root fs.FS) int {
	m, err := readManifest(tree{root})
	if err != nil {
		return 1
	}
	return max(m.Release, 1)
}

// EndsRecoveryTrial says whether an image that is started once as a new recovery system notes that it has come up, and
// restarts the machine.
func EndsRecoveryTrial(root fs.FS) bool {
	m, err := readManifest(tree{root})
	return err == nil && m.RecoveryTrial
}

// OpensEncrypted says whether an image's kernel and /init open encrypted partitions.
func OpensEncrypted(root fs.FS) bool {
	m, err := readManifest(tree{root})
	return err == nil && m.Encryption
}

// Check says whether the boot files that the image has are those that [Make] would make now,
// and if not, why not. It compares what they are made from, and is quicker than making them.
// An image that cannot boot at all is an error, the same as Make's.
func Check(root fs.FS, o Options) (fits bool, why string, err error) {
	t := tree{root}
	in, err := t.inputs(o)
	if err != nil {
		return false, "", err
	}
	was, err := readManifest(t)
	if errors.Is(err, fs.ErrNotExist) {
		return false, "the image has no " + "/" + layout.ImageBootManifest, nil
	}
	if err != nil {
		return false, err.Error(), nil
	}
	now := in.manifest()
	switch {
	case was.Kernel.Version != now.Kernel.Version:
		return false, fmt.Sprintf(
			"the image's kernel is %s, the boot files have %s",
			now.Kernel.Version,
			was.Kernel.Version,
		), nil
	case was.Kernel.Digest != now.Kernel.Digest:
		return false, "the kernel " + now.Kernel.Version + " was replaced", nil
	case was.Modules != now.Modules:
		return false, "modules of the kernel " + now.Kernel.Version + " that the initrd needs have changed", nil
	case was.Cmdline != now.Cmdline:
		return false, fmt.Sprintf(
			"the kernel command line is %q, the boot files have %q",
			now.Cmdline,
			was.Cmdline,
		), nil
	case was.Profiles != now.Profiles:
		return false, "the boot menu's choices are others", nil
	case was.Trust != now.Trust:
		return false, "the keys in /" + layout.ImageTrustDir + ", or what they are for, are others", nil
	case was.SecureBoot != now.SecureBoot:
		return false, "the certificate /" + layout.ImageSecureBootCert + " is another one", nil
	case was.PCRKey != now.PCRKey:
		return false, "the key /" + layout.ImagePCRKey + " is another one", nil
	case was.Init != now.Init || was.Stub != now.Stub:
		return false, "/init or the stub was replaced", nil
	}
	for _, name := range slices.Sorted(maps.Keys(was.Outputs)) {
		b, err := t.readFile(name, maxBootFile)
		if errors.Is(err, fs.ErrNotExist) {
			return false, "/" + name + " was removed", nil
		}
		if err != nil {
			return false, "", err
		}
		if digest(b) != was.Outputs[name] {
			return false, "/" + name + " was changed", nil
		}
	}
	if len(was.Outputs) == 0 {
		return false, "/" + layout.ImageBootManifest + " names no boot files", nil
	}
	return true, "", nil
}

// manifest describes the inputs. It does not know the outputs.
func (in *inputs) manifest() Manifest {
	m := Manifest{
		Init: digest(in.init), Release: layout.ReleaseSchema, RecoveryTrial: true,
		Stub: digest(in.stub), Cmdline: in.cmdline,
	}
	m.Encryption = in.modules.Encrypts && bytes.Contains(in.init, []byte(layout.AsksForKey))
	var menu strings.Builder
	for _, s := range profiles("") {
		fmt.Fprintf(&menu, "%s %q\n", s.Name, s.Data)
	}
	m.Profiles = digest([]byte(menu.String()))
	if in.trust != nil {
		m.Trust = digest(in.trust)
	}
	if in.secureBoot != nil {
		m.SecureBoot = digest(in.secureBoot.Certificate.Raw)
	}
	if in.pcrKey != nil {
		m.PCRKey = digest(pcr.MarshalPublic(in.pcrKey))
	}
	m.Kernel.Version, m.Kernel.Path, m.Kernel.Digest = in.kernel.Version, in.kernel.Path, in.kernelFile
	m.Kernel.Chosen, m.Kernel.Compression = in.kernel.Chosen, in.kernel.Compression()
	h := sha256.New()
	h.Write(in.modules.Index.Marshal())
	in.modules.Files(func(name string, packed []byte) {
		fmt.Fprintf(h, "%s %s\n", strings.TrimSpace(name), digest(packed))
	})
	m.Modules = hex.EncodeToString(h.Sum(nil))
	return m
}
