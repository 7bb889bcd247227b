// Package trusttest makes keys and what trusts them, for tests.
package trusttest

import (
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
)

// Key is a new private key: [trust.ECDSA] or [trust.Ed25519].
func Key(t testing.TB, algorithm string) sign.Key {
	t.Helper()
	k, err := sign.NewKey(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Signed are the signatures of a release by keys, as they lie beside it.
func Signed(t testing.TB, r layout.Release, keys ...sign.Key) []byte {
	t.Helper()
	all, err := sign.Release(r, keys)
	if err != nil {
		t.Fatal(err)
	}
	b, err := all.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Anchor wants so many of the keys to have signed.
func Anchor(threshold int, keys ...sign.Key) trust.Anchor {
	a := trust.Anchor{Threshold: threshold}
	for _, k := range keys {
		a.Keys = append(a.Keys, k.PublicKey)
	}
	trust.SortKeys(a.Keys)
	return a
}
