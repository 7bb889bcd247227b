package layout

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Digest is a SHA-256 digest in OCI form, "sha256:" and 64 lower-case hex digits.
// Kairos accepts no other algorithm: a name in a store must have one meaning.
type Digest string

const sha256Prefix = "sha256:"

// ParseDigest returns s as a Digest, or an error that names what is wrong with it.
func ParseDigest(s string) (Digest, error) {
	hex, ok := strings.CutPrefix(s, sha256Prefix)
	if !ok {
		return "", fmt.Errorf("digest %q: want it to begin with %q", s, sha256Prefix)
	}
	if !isHex(hex, 64) {
		return "", fmt.Errorf("digest %q: want 64 lower-case hex digits after %q", s, sha256Prefix)
	}
	return Digest(s), nil
}

// SHA256 returns the digest that crypto/sha256 has computed.
func SHA256(sum [32]byte) Digest { return Digest(sha256Prefix + hex.EncodeToString(sum[:])) }

// Hex returns the digest's 64 hex digits.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), sha256Prefix) }

// Short returns the digest's first 12 hex digits, for people; all of a digest that has fewer.
func (d Digest) Short() string { return d.Hex()[:min(len(d.Hex()), IDLength)] }

// cosignTag ends the tags under which cosign has the signatures of an image.
const cosignTag = ".sig"

// CosignTag returns the tag of cosign's signatures of an image, such as sha256-0123….sig
// (https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md).
func (d Digest) CosignTag() string { return "sha256-" + d.Hex() + cosignTag }

// IsCosignTag says whether a tag is one of [Digest.CosignTag].
func IsCosignTag(tag string) bool {
	hex, ok := strings.CutPrefix(strings.TrimSuffix(tag, cosignTag), "sha256-")
	return ok && strings.HasSuffix(tag, cosignTag) && isHex(hex, 64)
}

func (d Digest) String() string { return string(d) }

func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for _, c := range s {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}
