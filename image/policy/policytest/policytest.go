// Package policytest signs images as cosign does, for tests.
package policytest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/kairos-buildkit/kairos/layout"
)

// Key is a private key of cosign's.
type Key struct {
	signature.Signer
	Public []byte // PEM
}

// NewKey makes an ECDSA key on P-256, as `cosign generate-key-pair` does.
func NewKey(t testing.TB) Key {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return KeyOf(t, key)
}

// KeyOf is a key that was made elsewhere.
func KeyOf(t testing.TB, key crypto.Signer) Key {
	t.Helper()
	s, err := signature.LoadSigner(key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	public, err := cryptoutils.MarshalPublicKeyToPEM(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return Key{s, public}
}

// Claim is what is signed: that an image has a name.
func Claim(t testing.TB, image name.Digest, as string) []byte {
	t.Helper()
	b, err := json.Marshal(payload.Cosign{Image: image, ClaimedIdentity: as})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Sign pushes signatures of a claim to where cosign looks for those of an image. What was there is gone.
func Sign(t testing.TB, image name.Digest, claim []byte, keys ...Key) {
	t.Helper()
	var layers []mutate.Addendum
	for _, k := range keys {
		s, err := k.SignMessage(bytes.NewReader(claim))
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, Layer(claim, s, nil))
	}
	Push(t, image, layers...)
}

// Layer is a signature as a layer, with more annotations.
func Layer(claim, signature []byte, more map[string]string) mutate.Addendum {
	annotations := map[string]string{
		"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(signature),
	}
	for k, v := range more {
		annotations[k] = v
	}
	return mutate.Addendum{
		Layer:       static.NewLayer(claim, "application/vnd.dev.cosign.simplesigning.v1+json"),
		Annotations: annotations,
	}
}

// Push pushes signatures to where cosign looks for those of an image. What was there is gone.
func Push(t testing.TB, image name.Digest, layers ...mutate.Addendum) {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(img, layers...)
	if err != nil {
		t.Fatal(err)
	}
	tag := image.Tag(layout.Digest(image.DigestStr()).CosignTag())
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
}
