package tpm

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/kairos-buildkit/kairos/internal/tpm/tpmtest"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki/pcr"
)

// newKey makes a key that signs policies.
var newKey = sync.OnceValue(func() *rsa.PrivateKey { return anotherKey() })

func anotherKey() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, pcr.KeyBits)
	if err != nil {
		panic(err)
	}
	return key
}

// signed are the signatures for what a TPM's PCR 11 holds after words.
func signed(t *testing.T, key *rsa.PrivateKey, words ...string) []byte {
	t.Helper()
	v := pcr.Value{}
	for _, w := range words {
		v = v.Extend([]byte(w))
	}
	list, err := pcr.Sign(key, pcr.Value{}.Extend([]byte("another")), v)
	if err != nil {
		t.Fatal(err)
	}
	return pcr.Marshal(list)
}

func seal(t *testing.T, tpm *TPM, key *rsa.PrivateKey) ([]byte, json.RawMessage) {
	t.Helper()
	passphrase, token, err := tpm.Seal(pcr.MarshalPublic(&key.PublicKey), 1)
	if err != nil {
		t.Fatal(err)
	}
	return passphrase, token
}

func extend(t *testing.T, tpm *TPM, words ...string) {
	t.Helper()
	for _, w := range words {
		if err := tpm.Extend(layout.PCRBoot, w); err != nil {
			t.Fatal(err)
		}
	}
}

// A secret comes back for what the key has signed, as often as it is asked for, whatever started when it was sealed.
func TestSeal(t *testing.T) {
	tpm := start(t)
	key := newKey()
	passphrase, token := seal(t, tpm, key)
	if b, err := base64.StdEncoding.DecodeString(string(passphrase)); err != nil || len(b) != secretSize {
		t.Errorf("the passphrase is %q: %v", passphrase, err)
	}
	if other, _ := seal(t, tpm, key); bytes.Equal(other, passphrase) {
		t.Error("two secrets are the same")
	}
	extend(t, tpm, "uki", layout.PCRWord(layout.RoleSystem))
	signatures := signed(t, key, "uki", layout.PCRWord(layout.RoleSystem))
	for range 3 {
		got, err := tpm.Unseal(token, signatures)
		if err != nil || !bytes.Equal(got, passphrase) {
			t.Fatalf("%q, %v, want %q", got, err, passphrase)
		}
	}
	extend(t, tpm, "later")
	if got, err := tpm.Unseal(token, signatures); !errors.Is(err, ErrPolicy) {
		t.Errorf("after one more measurement: %q, %v", got, err)
	}
}

// A token of a newer systemd-cryptenroll has another name of the same key.
func TestUnsealOfNewerSystemd(t *testing.T) {
	before := exponents
	t.Cleanup(func() { exponents = before })
	tpm := start(t)
	key := newKey()
	exponents = []uint32{65537, 0}
	passphrase, token := seal(t, tpm, key)
	exponents = before
	if _, ours := seal(t, tpm, key); policy(t, ours) == policy(t, token) {
		t.Error("it is no other name")
	}
	extend(t, tpm, "uki")
	if got, err := tpm.Unseal(token, signed(t, key, "uki")); err != nil || !bytes.Equal(got, passphrase) {
		t.Errorf("%q, %v", got, err)
	}
}

func policy(t *testing.T, luks json.RawMessage) string {
	t.Helper()
	tok, err := parseToken(luks)
	if err != nil {
		t.Fatal(err)
	}
	return tok.Policy
}

// What PCRs hold is what package pcr says.
func TestExtend(t *testing.T) {
	tpm := start(t)
	for _, number := range []uint{layout.PCRBoot, layout.PCRSystem} {
		want := pcr.Value{}
		for _, w := range []string{"one", layout.PCRWord(layout.RoleLive), layout.PCRReleaseWord("sha256:1")} {
			if err := tpm.Extend(number, w); err != nil {
				t.Fatal(err)
			}
			want = want.Extend([]byte(w))
			if got, err := tpm.PCR(number); err != nil || got != want {
				t.Errorf("PCR %d after %q: %x, %v, want %x", number, w, got, err, want)
			}
		}
	}
}

// Each of these is no reason to give the secret away, and says what it is.
func TestUnsealRefuses(t *testing.T) {
	const uki, role = "uki", "kairos-system"
	state := t.TempDir()
	tpm := On(tpmtest.StartIn(t, state)())
	key, other := newKey(), anotherKey()
	_, token := seal(t, tpm, key)
	good := signed(t, key, uki, role)
	changed := func(change func(tok map[string]any)) json.RawMessage {
		var tok map[string]any
		if err := json.Unmarshal(token, &tok); err != nil {
			t.Fatal(err)
		}
		change(tok)
		b, err := json.Marshal(tok)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	set := func(name string, value any) json.RawMessage {
		return changed(func(tok map[string]any) { tok[name] = value })
	}
	flip := func(name string, at int) json.RawMessage {
		return changed(func(tok map[string]any) {
			b, err := base64.StdEncoding.DecodeString(tok[name].(string))
			if err != nil {
				t.Fatal(err)
			}
			b[at] ^= 1
			tok[name] = b
		})
	}
	if _, err := tpm.Unseal(token, good); !errors.Is(err, ErrPolicy) || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("nothing was measured: %v", err)
	}
	extend(t, tpm, uki)
	if _, err := tpm.Unseal(token, good); !errors.Is(err, ErrPolicy) {
		t.Errorf("before the role's word: %v", err)
	}
	extend(t, tpm, role)
	// A signature of another policy under this one's name, which only the TPM sees.
	forged, err := pcr.Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	forged[1].Signature = forged[0].Signature
	// The stranger's own key, in the token too: the sealed object's policy is not its.
	theirs := changed(func(tok map[string]any) {
		_, own := seal(t, tpm, other)
		var its map[string]any
		if err := json.Unmarshal(own, &its); err != nil {
			t.Fatal(err)
		}
		tok["tpm2_pubkey"], tok["tpm2-policy-hash"] = its["tpm2_pubkey"], its["tpm2-policy-hash"]
	})
	for _, c := range []struct {
		name       string
		token      json.RawMessage
		signatures []byte
		is         error
		says       string
	}{
		{"another UKI", token, signed(t, key, "other", role), ErrPolicy, "for which there is no signature"},
		{"a live medium", token, signed(t, key, uki, "kairos-live"), ErrPolicy, "for which there is no signature"},
		{"another key", token, signed(t, other, uki, role), ErrPolicy, "there is no signature by the key"},
		{"another key in the token", theirs, signed(t, other, uki, role), ErrPolicy, ""},
		{"forged", token, pcr.Marshal(forged), ErrPolicy, "the signature for it is wrong"},
		{"no signatures", token, []byte("{}"), ErrPolicy, "there is no signature by the key"},
		{"no JSON", token, []byte("nonsense"), nil, "signatures of PCRs"},
		{"many", token, bytes.Repeat([]byte(" "), pcr.MaxSignatures+1), nil, "at most"},
		{"a token of another type", set("type", "clevis"), good, nil, `of type "clevis"`},
		{"a large token", bytes.Repeat([]byte(" "), MaxToken+1), good, nil, "at most"},
		{"no token", []byte("nonsense"), good, nil, "token: invalid"},
		{"a PIN", set("tpm2-pin", true), good, nil, "a PIN"},
		{"pcrlock", set("tpm2_pcrlock", true), good, nil, "systemd-pcrlock"},
		{"PCR 7", set("tpm2-pcrs", []int{7}), good, nil, "values of PCRs [7]"},
		{"another PCR of the key", set("tpm2_pubkey_pcrs", []int{12}), good, nil, "its key signs PCRs [12]"},
		{"another bank", set("tpm2-pcr-bank", "sha1"), good, nil, `"sha1"`},
		{"another policy", set("tpm2-policy-hash", strings.Repeat("0", 64)), good, nil, "its policy"},
		{"no key", set("tpm2_pubkey", ""), good, nil, "public key"},
		{"no storage key", set("tpm2_srk", ""), good, nil, "which storage key"},
		{"another storage key", flip("tpm2_srk", 8), good, ErrOther, "was cleared"},
		{"another handle", flip("tpm2_srk", 3), good, nil, "0x81000001"},
		{"a changed secret", flip("tpm2-blob", 60), good, ErrOther, ""},
		{"a cut blob", set("tpm2-blob", []byte{0, 9, 1}), good, nil, "is cut"},
		{"more than a blob", changed(func(tok map[string]any) {
			b, _ := base64.StdEncoding.DecodeString(tok["tpm2-blob"].(string))
			tok["tpm2-blob"] = append(b, 0)
		}), good, nil, "tpm2-blob"},
	} {
		got, err := tpm.Unseal(c.token, c.signatures)
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
		for _, e := range []error{ErrOther, ErrPolicy} {
			if c.is != e && errors.Is(err, e) {
				t.Errorf("%s: says that it is for another reason: %v", c.name, err)
			}
		}
	}
	if _, err := tpm.Unseal(token, good); err != nil {
		t.Fatalf("after all that: %v", err)
	}

	// Another machine.
	another := start(t)
	extend(t, another, uki, role)
	if _, err := another.Unseal(token, good); !errors.Is(err, ErrOther) {
		t.Errorf("a TPM without a storage key: %v", err)
	}
	seal(t, another, key)
	if _, err := another.Unseal(token, good); !errors.Is(err, ErrOther) {
		t.Errorf("another TPM: %v", err)
	}
	// The same one, cleared: PCRs stay.
	_, err = tpm2.Clear{AuthHandle: tpm2.AuthHandle{
		Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil),
	}}.Execute(tpm.t)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tpm.Unseal(token, good); !errors.Is(err, ErrOther) {
		t.Errorf("cleared: %v", err)
	}
	seal(t, tpm, key)
	if _, err := tpm.Unseal(token, good); !errors.Is(err, ErrOther) {
		t.Errorf("cleared, and used again: %v", err)
	}
}

// wire keeps what goes to a TPM and comes from it, as somebody on the bus sees it.
type wire struct {
	t    transport.TPM
	seen bytes.Buffer
}

func (w *wire) Send(command []byte) ([]byte, error) {
	w.seen.Write(command)
	answer, err := w.t.Send(command)
	w.seen.Write(answer)
	return answer, err
}

// Who listens between machine and TPM does not learn the secret.
func TestSecretOnTheWire(t *testing.T) {
	tpm := start(t)
	w := &wire{t: tpm.t}
	tpm.t = w
	key := newKey()
	passphrase, token := seal(t, tpm, key)
	extend(t, tpm, "uki")
	if _, err := tpm.Unseal(token, signed(t, key, "uki")); err != nil {
		t.Fatal(err)
	}
	secret, err := base64.StdEncoding.DecodeString(string(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	if seen := w.seen.Bytes(); len(seen) < 1000 || bytes.Contains(seen, secret) || bytes.Contains(seen, passphrase) {
		t.Errorf("%d bytes were seen, with the secret: %v", len(seen), bytes.Contains(seen, secret))
	}
}

// Where the owner of a TPM has set a password it says what to do; what was sealed before is unsealed.
func TestSealOwnersPassword(t *testing.T) {
	for _, before := range []bool{false, true} {
		tpm := start(t)
		key := newKey()
		var token json.RawMessage
		if before {
			_, token = seal(t, tpm, key)
		}
		_, err := tpm2.HierarchyChangeAuth{
			AuthHandle: owner(), NewAuth: tpm2.TPM2BAuth{Buffer: []byte("secret")},
		}.Execute(tpm.t)
		if err != nil {
			t.Fatal(err)
		}
		extend(t, tpm, "uki")
		if before {
			if _, err := tpm.Unseal(token, signed(t, key, "uki")); err != nil {
				t.Error(err)
			}
			continue
		}
		_, _, err = tpm.Seal(pcr.MarshalPublic(&key.PublicKey), 1)
		if err == nil || !strings.Contains(err.Error(), "tpm2_changeauth") {
			t.Error(err)
		}
	}
}

// Nothing of the TPM's memory stays taken: it has room for three objects.
func TestSealFlushes(t *testing.T) {
	tpm := start(t)
	key := newKey()
	_, token := seal(t, tpm, key)
	extend(t, tpm, "uki")
	bad := signed(t, anotherKey(), "uki")
	forged, err := pcr.Parse(signed(t, key, "uki"))
	if err != nil {
		t.Fatal(err)
	}
	forged[1].Signature[9] ^= 1
	for range 8 {
		seal(t, tpm, key)
		for _, signatures := range [][]byte{bad, pcr.Marshal(forged)} {
			if _, err := tpm.Unseal(token, signatures); !errors.Is(err, ErrPolicy) {
				t.Fatal(err)
			}
		}
	}
	if _, err := tpm.Unseal(token, signed(t, key, "uki")); err != nil {
		t.Error(err)
	}
}
