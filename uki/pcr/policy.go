// Package pcr says what PCR 11 of a TPM 2.0 holds once systemd's stub has started a UKI and /init has said what it
// boots, and signs the policies that unseal a secret then and at no other time.
//
// A PCR begins as zeros, and is only ever extended: SHA-256 of what it holds and of a digest, one after the other. The
// stub extends PCR 11 by each section of the UKI that it uses, twice: by the digest of the section's name with a zero
// byte, and by that of its content. /init extends it by one word, see [layout.PCRWord].
//
// A policy that is authorized (TPM2_PolicyAuthorize) names a public key and no PCR. The key's owner says later which
// values are good, by signatures that the UKI brings along in the format of systemd-measure:
//
//	{"sha256": [{"pcrs": [11],    the PCRs of the policy
//	             "pkfp": "…",     SHA-256 of the public key in DER (RSAPublicKey of PKCS #1), hex
//	             "pol":  "…",     the policy: the digest that TPM2_PolicyPCR gives a new session, hex
//	             "sig":  "…"}]}   RSA PKCS #1 v1.5 with SHA-256 of the policy's bytes, base64
//
// Reference: TPM 2.0 Library, part 3 (23.7, TPM2_PolicyPCR; 23.16, TPM2_PolicyAuthorize); systemd-measure(1);
// systemd-stub(7); UAPI.7, Linux TPM PCR registry.
package pcr

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/kairos-buildkit/kairos/layout"
)

// Value is what a PCR of the SHA-256 bank holds.
type Value [sha256.Size]byte

// Extend is the value after one more measurement: of a section, or of a word.
func (v Value) Extend(what []byte) Value {
	sum := sha256.Sum256(what)
	return sha256.Sum256(append(v[:], sum[:]...))
}

// Codes of TPM 2.0, part 2.
const (
	commandPolicyPCR       = 0x17f
	commandPolicyAuthorize = 0x16a
	algorithmSHA256        = 0x0b
)

// selection is TPML_PCR_SELECTION: one bank, three bytes with a bit for each PCR.
var selection = func() []byte {
	b := binary.BigEndian.AppendUint32(nil, 1)
	b = binary.BigEndian.AppendUint16(b, algorithmSHA256)
	b = append(b, 3, 0, 0, 0)
	b[len(b)-3+layout.PCRBoot/8] |= 1 << (layout.PCRBoot % 8)
	return b
}()

// Policy is the digest of the policy that PCR 11 holds this value: what TPM2_PolicyPCR gives a new session.
func (v Value) Policy() [sha256.Size]byte {
	values := sha256.Sum256(v[:])
	h := sha256.New()
	h.Write(make([]byte, sha256.Size))
	h.Write(binary.BigEndian.AppendUint32(nil, commandPolicyPCR))
	h.Write(selection)
	h.Write(values[:])
	return [sha256.Size]byte(h.Sum(nil))
}

// Authorized is the digest of the policy that a key has signed what holds: what TPM2_PolicyAuthorize gives a session
// for the key's name in the TPM (TPM 2.0, part 1, 16), without a qualifier.
func Authorized(name []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(make([]byte, sha256.Size))
	h.Write(binary.BigEndian.AppendUint32(nil, commandPolicyAuthorize))
	h.Write(name)
	return sha256.Sum256(h.Sum(nil)) // once more for the qualifier, which is empty
}

// MaxSignatures bounds a file of signatures, in bytes, and maxSignatures their number.
const (
	MaxSignatures = 64 << 10
	maxSignatures = 64
)

// Signature says that a key's owner approves of a policy.
type Signature struct {
	// Key is the fingerprint of the public key, see [Fingerprint].
	Key [sha256.Size]byte
	// Policy is what it signs, see [Value.Policy].
	Policy [sha256.Size]byte
	// Signature is RSA PKCS #1 v1.5 with SHA-256.
	Signature []byte
}

// Sign approves of values of PCR 11. The same key and value give the same bytes.
func Sign(key *rsa.PrivateKey, values ...Value) (list []Signature, err error) {
	for _, v := range values {
		s := Signature{Key: Fingerprint(&key.PublicKey), Policy: v.Policy()}
		sum := sha256.Sum256(s.Policy[:])
		if s.Signature, err = rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:]); err != nil {
			return nil, fmt.Errorf("sign a policy for PCR %d: %w", layout.PCRBoot, err)
		}
		list = append(list, s)
	}
	return list, nil
}

// entry is a signature in JSON.
type entry struct {
	PCRs   []int  `json:"pcrs"`
	Key    string `json:"pkfp"`
	Policy string `json:"pol"`
	Sig    string `json:"sig"`
}

// Marshal returns the file of signatures, as the section .pcrsig has it.
func Marshal(list []Signature) []byte {
	banks := map[string][]entry{"sha256": {}}
	for _, s := range list {
		banks["sha256"] = append(banks["sha256"], entry{
			[]int{layout.PCRBoot}, hex.EncodeToString(s.Key[:]), hex.EncodeToString(s.Policy[:]),
			base64.StdEncoding.EncodeToString(s.Signature),
		})
	}
	b, _ := json.Marshal(banks) // numbers and strings cannot fail
	return append(b, '\n')
}

// Parse reads a file of signatures: those for PCR 11 alone and the SHA-256 bank. Others are left out, since a file of
// systemd-measure has them beside ours.
func Parse(b []byte) (list []Signature, err error) {
	if len(b) > MaxSignatures {
		return nil, fmt.Errorf("signatures of PCRs: %d bytes: at most %d are read", len(b), MaxSignatures)
	}
	var banks map[string]json.RawMessage
	if err := json.Unmarshal(b, &banks); err != nil {
		return nil, fmt.Errorf("signatures of PCRs: %w", err)
	}
	var entries []entry
	if bank, ok := banks["sha256"]; ok {
		if err := json.Unmarshal(bank, &entries); err != nil {
			return nil, fmt.Errorf("signatures of PCRs: sha256: %w", err)
		}
	}
	if len(entries) > maxSignatures {
		return nil, fmt.Errorf("signatures of PCRs: %d of them: at most %d are read", len(entries), maxSignatures)
	}
	for i, e := range entries {
		if !slices.Equal(e.PCRs, []int{layout.PCRBoot}) {
			continue
		}
		s := Signature{}
		key, err1 := hex.DecodeString(e.Key)
		policy, err2 := hex.DecodeString(e.Policy)
		sig, err3 := base64.StdEncoding.DecodeString(e.Sig)
		err := errors.Join(err1, err2, err3)
		if err == nil && (len(key) != len(s.Key) || len(policy) != len(s.Policy) || len(sig) == 0) {
			err = errors.New("pkfp, pol or sig has another length")
		}
		if err != nil {
			return nil, fmt.Errorf("signatures of PCRs: sha256, number %d: %w", i+1, err)
		}
		copy(s.Key[:], key)
		copy(s.Policy[:], policy)
		s.Signature = sig
		list = append(list, s)
	}
	return list, nil
}
