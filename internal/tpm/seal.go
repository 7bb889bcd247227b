package tpm

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/google/go-tpm/tpm2"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki/pcr"
)

// TokenType is the type of a LUKS2 token that has a secret which a TPM has sealed, as systemd-cryptenroll makes it.
const TokenType = "systemd-tpm2"

// MaxToken bounds a token, in bytes.
const MaxToken = 16 << 10

// secretSize is the size of a sealed secret, in bytes: systemd's.
const secretSize = 32

var (
	// ErrOther says that this TPM has not sealed the secret.
	ErrOther = errors.New("this TPM has not sealed it: the disk is from another machine, or the TPM was cleared, or " +
		"exchanged with the board")
	// ErrPolicy says that the TPM has sealed the secret for something else than what was started.
	ErrPolicy = errors.New("what was started is not what the key in the token has signed")
)

// token is a LUKS2 token as systemd writes and reads it (systemd, src/shared/tpm2-util.c, tpm2_make_luks2_json). What
// Kairos has no use for is read so that it can be refused: a passphrase, PCRs by their value.
type token struct {
	Type     string   `json:"type"`
	Keyslots []string `json:"keyslots"`
	// Blob is TPM2B_PRIVATE and TPM2B_PUBLIC of the sealed object.
	Blob    []byte `json:"tpm2-blob"`
	PCRs    []int  `json:"tpm2-pcrs"`
	Bank    string `json:"tpm2-pcr-bank"`
	Primary string `json:"tpm2-primary-alg"`
	// Policy is the object's, in hex.
	Policy  string `json:"tpm2-policy-hash"`
	PIN     bool   `json:"tpm2-pin"`
	Pcrlock bool   `json:"tpm2_pcrlock,omitempty"`
	KeyPCRs []int  `json:"tpm2_pubkey_pcrs"`
	// Key is the public key that signs policies, PEM.
	Key []byte `json:"tpm2_pubkey"`
	// SRK is the storage key's handle, name and public area, see [serialize].
	SRK []byte `json:"tpm2_srk"`
}

// Seal makes a random secret, and seals it for what the owner of a key signs: the policy is that he has signed one for
// the value of PCR 11 (see package uki/pcr). publicKey is the key's public part, as the UKI's section .pcrpkey and
// [layout.InitrdPCRKey] have it: PEM, RSA 2048.
//
// It returns the passphrase for the LUKS2 keyslot of that number, in ASCII: the secret in base64, as systemd gives it
// to LUKS. The token is for the same header: JSON of the type [TokenType], with which systemd-cryptsetup unlocks,
// too. Nothing of what is in PCRs now matters.
//
// The secret's parent is the storage root key (SRK): what is at 0x81000001, or a P-256 key that is made there, as
// systemd does it. The secret is encrypted on its way to the TPM.
func (t *TPM) Seal(publicKey []byte, keyslot int) (passphrase []byte, luks json.RawMessage, err error) {
	secret := make([]byte, secretSize)
	if _, err := rand.Read(secret); err != nil {
		return nil, nil, err
	}
	defer clear(secret)
	tok, err := t.seal(secret, publicKey)
	if err != nil {
		return nil, nil, fmt.Errorf("seal a secret in the TPM: %w%s", err, ownersPassword(err))
	}
	tok.Keyslots = []string{strconv.Itoa(keyslot)}
	if luks, err = json.Marshal(tok); err != nil {
		return nil, nil, err
	}
	return encode(secret), luks, nil
}

// encode is a secret as LUKS gets it.
func encode(secret []byte) []byte {
	b := make([]byte, base64.StdEncoding.EncodedLen(len(secret)))
	base64.StdEncoding.Encode(b, secret)
	return b
}

func (t *TPM) seal(secret, publicKey []byte) (*token, error) {
	key, err := pcr.ParsePublic(publicKey)
	if err != nil {
		return nil, err
	}
	if _, err := t.PCR(layout.PCRBoot); err != nil {
		return nil, err // it could not be unsealed
	}
	srk, err := t.storageKey()
	if err != nil {
		return nil, err
	}
	policy, err := policyOf(key, exponents[0])
	if err != nil {
		return nil, err
	}
	var made *tpm2.CreateResponse
	err = again(func() error {
		made, err = tpm2.Create{
			ParentHandle: srk.auth(tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, srk.salted(), encryptIn)),
			InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
				Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
			}},
			InPublic: tpm2.New2B(tpm2.TPMTPublic{
				Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
				ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true},
				AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy},
			}),
		}.Execute(t.t)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &token{
		Type: TokenType, Blob: slices.Concat(tpm2.Marshal(made.OutPrivate), tpm2.Marshal(made.OutPublic)),
		PCRs: []int{}, Bank: "sha256", Primary: srk.algorithm, Policy: hex.EncodeToString(policy),
		KeyPCRs: []int{layout.PCRBoot}, Key: publicKey, SRK: srk.serialize(),
	}, nil
}

// Unseal returns the passphrase of a keyslot that [TPM.Seal] has made, by the LUKS2 header's token, and by the file of
// signatures that the UKI has brought along ([layout.InitrdPCRSignatures]): one of them has to be for what PCR 11
// holds now, by the token's key. The secret is encrypted on its way from the TPM.
//
// Where this TPM has not sealed it the error is [ErrOther], and where something else was started [ErrPolicy]. Errors
// of other kinds are the TPM's own, or say what is wrong in the token or the signatures.
func (t *TPM) Unseal(luks json.RawMessage, signatures []byte) (passphrase []byte, err error) {
	secret, err := t.unseal(luks, signatures)
	if err != nil {
		return nil, fmt.Errorf("unseal a secret by the TPM: %w%s", err, ownersPassword(err))
	}
	defer clear(secret)
	return encode(secret), nil
}

func (t *TPM) unseal(luks json.RawMessage, signatures []byte) ([]byte, error) {
	tok, err := parseToken(luks)
	if err != nil {
		return nil, err
	}
	key, err := pcr.ParsePublic(tok.Key)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	exponent, err := tok.exponent(key)
	if err != nil {
		return nil, err
	}
	list, err := pcr.Parse(signatures)
	if err != nil {
		return nil, err
	}
	now, err := t.PCR(layout.PCRBoot)
	if err != nil {
		return nil, err
	}
	signature, err := choose(list, key, now)
	if err != nil {
		return nil, err
	}
	srk, err := t.sameStorageKey(tok.SRK)
	if err != nil {
		return nil, err
	}
	public := publicArea(key, exponent)
	return t.load(srk, tok, func(session tpm2.TPMISHPolicy) error { return t.authorize(session, public, signature) })
}

// parseToken reads a token, and refuses one that asks for more than Kairos does.
func parseToken(b json.RawMessage) (*token, error) {
	if len(b) > MaxToken {
		return nil, fmt.Errorf("token: %d bytes: at most %d are read", len(b), MaxToken)
	}
	var tok token
	if err := json.Unmarshal(b, &tok); err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	switch {
	case tok.Type != TokenType:
		return nil, fmt.Errorf("token: it is of type %q, and not %q", tok.Type, TokenType)
	case tok.PIN:
		return nil, errors.New("token: it wants a PIN, which only systemd-cryptsetup asks for")
	case tok.Pcrlock:
		return nil, errors.New("token: it is bound by systemd-pcrlock, which only systemd-cryptsetup knows")
	case len(tok.PCRs) > 0:
		return nil, fmt.Errorf("token: it is bound to the values of PCRs %v, which an upgrade changes: enroll it "+
			"again with --tpm2-pcrs= and --tpm2-public-key=", tok.PCRs)
	case !slices.Equal(tok.KeyPCRs, []int{layout.PCRBoot}):
		return nil, fmt.Errorf("token: its key signs PCRs %v, and not %d alone", tok.KeyPCRs, layout.PCRBoot)
	case tok.Bank != "sha256":
		return nil, fmt.Errorf("token: its PCRs are those of %q, and not of sha256", tok.Bank)
	case len(tok.SRK) == 0:
		return nil, errors.New("token: it does not say which storage key it is for: enroll it again with a newer " +
			"systemd")
	}
	return &tok, nil
}

// choose returns the signature by a key for a value of PCR 11.
func choose(list []pcr.Signature, key *rsa.PublicKey, now pcr.Value) (s pcr.Signature, err error) {
	fingerprint, policy, byKey := pcr.Fingerprint(key), now.Policy(), false
	for _, s := range list {
		if s.Key != fingerprint {
			continue
		}
		byKey = true
		if s.Policy == policy {
			return s, nil
		}
	}
	switch {
	case now == pcr.Value{}:
		return s, fmt.Errorf("%w: PCR %d is empty: the firmware has measured nothing", ErrPolicy, layout.PCRBoot)
	case !byKey:
		return s, fmt.Errorf("%w: there is no signature by the key %x", ErrPolicy, fingerprint[:6])
	}
	return s, fmt.Errorf("%w: PCR %d is %x, for which there is no signature", ErrPolicy, layout.PCRBoot, now)
}

// load loads the sealed object, and has the TPM unseal it by a session that meets its policy.
func (t *TPM) load(srk *storageKey, tok *token, policy func(tpm2.TPMISHPolicy) error) ([]byte, error) {
	private, rest, err := sized(tok.Blob)
	if err != nil {
		return nil, err
	}
	public, rest, err := sized(rest)
	if err != nil || len(rest) > 0 {
		return nil, errors.New("token: tpm2-blob is not two sized structures")
	}
	var object *tpm2.LoadResponse
	err = again(func() error {
		object, err = tpm2.Load{
			ParentHandle: srk.auth(tpm2.PasswordAuth(nil)),
			InPrivate:    tpm2.TPM2BPrivate{Buffer: private},
			InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](public),
		}.Execute(t.t)
		return err
	})
	if errors.Is(err, tpm2.TPMRCIntegrity) {
		return nil, fmt.Errorf("%w (%w)", ErrOther, err)
	}
	if err != nil {
		return nil, err
	}
	defer t.flush(object.ObjectHandle)
	var out *tpm2.UnsealResponse
	err = again(func() error {
		session, end, err := tpm2.PolicySession(t.t, tpm2.TPMAlgSHA256, nonceSize, srk.salted(), encryptOut)
		if err != nil {
			return err
		}
		defer func() { _ = end() }() // the kernel ends it with the device
		if err := policy(session.Handle()); err != nil {
			return err
		}
		out, err = tpm2.Unseal{
			ItemHandle: tpm2.AuthHandle{Handle: object.ObjectHandle, Name: object.Name, Auth: session},
		}.Execute(t.t)
		return err
	})
	switch {
	case errors.Is(err, tpm2.TPMRCPolicyFail), errors.Is(err, tpm2.TPMRCPCRChanged), errors.Is(err, tpm2.TPMRCValue):
		return nil, fmt.Errorf("%w (%w)", ErrPolicy, err)
	case err != nil:
		return nil, err
	}
	return out.OutData.Buffer, nil
}

// authorize has a session meet the policy that PCR 11 holds what a key has signed.
func (t *TPM) authorize(session tpm2.TPMISHPolicy, public tpm2.TPMTPublic, s pcr.Signature) error {
	loaded, err := tpm2.LoadExternal{InPublic: tpm2.New2B(public), Hierarchy: tpm2.TPMRHOwner}.Execute(t.t)
	if err != nil {
		return fmt.Errorf("load the public key: %w", err)
	}
	defer t.flush(loaded.ObjectHandle)
	sum := digest(s.Policy[:])
	verified, err := tpm2.VerifySignature{
		KeyHandle: tpm2.NamedHandle{Handle: loaded.ObjectHandle, Name: loaded.Name},
		Digest:    tpm2.TPM2BDigest{Buffer: sum},
		Signature: tpm2.TPMTSignature{
			SigAlg: tpm2.TPMAlgRSASSA,
			Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{
				Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: s.Signature},
			}),
		},
	}.Execute(t.t)
	if err != nil {
		return fmt.Errorf("%w: the signature for it is wrong (%w)", ErrPolicy, err)
	}
	if _, err := (tpm2.PolicyPCR{PolicySession: session, Pcrs: bankOf(layout.PCRBoot)}).Execute(t.t); err != nil {
		return err
	}
	_, err = tpm2.PolicyAuthorize{
		PolicySession: session, ApprovedPolicy: tpm2.TPM2BDigest{Buffer: s.Policy[:]}, KeySign: loaded.Name,
		CheckTicket: verified.Validation,
	}.Execute(t.t)
	return err
}

// sized cuts a structure with its size before it, TPM2B.
func sized(b []byte) (content, rest []byte, err error) {
	if len(b) >= 2 {
		if n := int(binary.BigEndian.Uint16(b)); n <= len(b)-2 {
			return b[2:][:n], b[2+n:], nil
		}
	}
	return nil, nil, errors.New("token: a structure in it is cut")
}

// exponents are how a TPM is told of 65537, which makes two names of one key: 0 is that number, and each TPM takes it.
// Newer versions of systemd-cryptenroll write it out, and read both.
var exponents = []uint32{0, 65537}

// exponent says which of the two a token's policy was made with.
func (tok *token) exponent(key *rsa.PublicKey) (uint32, error) {
	for _, e := range exponents {
		policy, err := policyOf(key, e)
		if err != nil {
			return 0, err
		}
		if tok.Policy == hex.EncodeToString(policy) {
			return e, nil
		}
	}
	return 0, errors.New("token: its policy is not that its key has signed PCR 11")
}

// publicArea is a key as the TPM has it: what its name, and so the policy, is made of. It has to be as systemd makes
// it, or the two would not understand each other's tokens.
func publicArea(key *rsa.PublicKey, exponent uint32) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{UserWithAuth: true, Decrypt: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA,
			&tpm2.TPMSRSAParms{KeyBits: pcr.KeyBits, Exponent: exponent}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()}),
	}
}

// policyOf is the digest of the policy that a key has signed what holds.
func policyOf(key *rsa.PublicKey, exponent uint32) ([]byte, error) {
	public := publicArea(key, exponent)
	name, err := tpm2.ObjectName(&public)
	if err != nil {
		return nil, err
	}
	sum := pcr.Authorized(name.Buffer)
	return sum[:], nil
}
