package layout

import (
	"encoding/json"
	"fmt"
	"path"
)

// Names inside a store, see the package documentation.
const (
	BlobsDir    = "blobs"
	ReleasesDir = "releases"
	ReleaseFile = "release.json"

	// LiveRoot is the folder of a live medium that holds its store.
	LiveRoot = "kairos"
	// LiveCloudConfig is the cloud-config embedded in a live medium, relative to the
	// medium's root.
	LiveCloudConfig = "kairos/config.yaml"
	// LiveGrubConfig is GRUB's configuration on a live medium, relative to the medium's root.
	LiveGrubConfig = "boot/grub/grub.cfg"
)

// BlobPath returns the path of a layer's blob, relative to the store.
func BlobPath(diffID Digest) string {
	hex := diffID.Hex()
	return path.Join(BlobsDir, "sha256", hex[:2], hex+".erofs")
}

// SidecarPath returns the path of the blob's verity sidecar, relative to the store.
func SidecarPath(diffID Digest) string { return BlobPath(diffID) + ".dmverity" }

// ReleasePath returns the path of a release's release.json, relative to the store.
func ReleasePath(id string) string { return path.Join(ReleasesDir, id, ReleaseFile) }

// ReleaseOriginPath returns the path of the file that says where a release's image was taken from, relative to the
// store: one line. See [MarshalOrigin].
func ReleaseOriginPath(id string) string { return path.Join(ReleasesDir, id, "image") }

// ReleaseAcceptancePath returns the path of the file that says which requirements of a policy have accepted a release
// when it came, and who had signed it, relative to the store: JSON, a list of api.Acceptance. People read it; nobody
// believes it.
func ReleaseAcceptancePath(id string) string { return path.Join(ReleasesDir, id, "accepted.json") }

// ReleaseSignaturesPath returns the path of the file with a release's signatures, relative to the store.
func ReleaseSignaturesPath(id string) string { return path.Join(ReleasesDir, id, "release.sig") }

// ReleaseBootSignaturesPath returns the path of the file with the signatures of a release's boot files for Secure
// Boot, where these are apart from the image, relative to the store.
func ReleaseBootSignaturesPath(id string) string { return path.Join(ReleasesDir, id, "boot.sig") }

// Sidecar is the content of a blob's .dmverity file, in the format of containerd's
// EROFS snapshotter: the root hash in hex, and the offset in bytes of the dm-verity
// superblock, which is the size of the EROFS image before it.
type Sidecar struct {
	RootHash   string `json:"roothash"`
	HashOffset int64  `json:"hashoffset"`
}

// ParseSidecar reads a .dmverity file.
func ParseSidecar(b []byte) (Sidecar, error) {
	var s Sidecar
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("verity sidecar: %w", err)
	}
	if !isHex(s.RootHash, 64) {
		return s, fmt.Errorf("verity sidecar: root hash %q: want 64 lower-case hex digits", s.RootHash)
	}
	if s.HashOffset <= 0 || s.HashOffset%4096 != 0 {
		return s, fmt.Errorf("verity sidecar: hash offset %d: want a positive multiple of 4096", s.HashOffset)
	}
	return s, nil
}

// Marshal returns the sidecar's bytes.
func (s Sidecar) Marshal() []byte {
	b, _ := json.Marshal(s) // a string and an integer cannot fail
	return b
}
