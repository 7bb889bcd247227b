package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/kairos-buildkit/kairos/uki/pcr"
)

// srkHandle is where a storage root key is kept, by TCG's TPM v2.0 Provisioning Guidance, 7.5.1.
const srkHandle = 0x81000001

// nonceSize is the size of what is random in each command of a session, in bytes.
const nonceSize = 16

// storageKey is the key that sealed objects are under: it never leaves the TPM.
type storageKey struct {
	name      tpm2.TPM2BName
	public    tpm2.TPMTPublic
	algorithm string // in systemd's word
	area      []byte // TPM2B_PUBLIC
}

func (k *storageKey) auth(session tpm2.Session) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: srkHandle, Name: k.name, Auth: session}
}

// salted is that the key of a session is made of a number that only the TPM can decrypt: who listens on the way to it
// learns nothing of what the session encrypts.
func (k *storageKey) salted() tpm2.AuthOption { return tpm2.Salted(srkHandle, k.public) }

// What a session encrypts: a command's first parameter, or its answer's.
var (
	encryptIn  = tpm2.AESEncryption(128, tpm2.EncryptIn)
	encryptOut = tpm2.AESEncryption(128, tpm2.EncryptOut)
)

// resourceKey is IESYSC_KEY_RSRC of tpm2-tss.
const resourceKey = 1

// serialize is the key as tpm2-tss keeps one for later (Esys_TR_Serialize), in big endian:
//
//	4 bytes  handle
//	2 + n    name
//	4 bytes  1: it is a key
//	2 + n    public area
func (k *storageKey) serialize() []byte {
	b := binary.BigEndian.AppendUint32(nil, srkHandle)
	b = append(b, tpm2.Marshal(k.name)...)
	b = binary.BigEndian.AppendUint32(b, resourceKey)
	return append(b, k.area...)
}

// storageKey reads the storage root key, and makes it where there is none.
func (t *TPM) storageKey() (*storageKey, error) {
	k, err := t.readStorageKey()
	if k != nil || err != nil {
		return k, err
	}
	var primary *tpm2.CreatePrimaryResponse
	err = again(func() error {
		primary, err = tpm2.CreatePrimary{
			PrimaryHandle: owner(), InPublic: tpm2.New2B(tpm2.ECCSRKTemplate),
		}.Execute(t.t)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make its storage key: %w", err)
	}
	defer t.flush(primary.ObjectHandle)
	err = again(func() error {
		_, err := tpm2.EvictControl{
			Auth:             owner(),
			ObjectHandle:     tpm2.NamedHandle{Handle: primary.ObjectHandle, Name: primary.Name},
			PersistentHandle: srkHandle,
		}.Execute(t.t)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("keep its storage key: %w", err)
	}
	if k, err = t.readStorageKey(); k == nil && err == nil {
		err = errors.New("it does not keep its storage key")
	}
	return k, err
}

// readStorageKey reads the storage root key, nil where there is none.
func (t *TPM) readStorageKey() (*storageKey, error) {
	var read *tpm2.ReadPublicResponse
	err := again(func() (err error) {
		read, err = tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(srkHandle)}.Execute(t.t)
		return err
	})
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read its storage key: %w", err)
	}
	public, err := read.OutPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("read its storage key: %w", err)
	}
	k := &storageKey{name: read.Name, public: *public, area: tpm2.Marshal(read.OutPublic)}
	switch public.Type {
	case tpm2.TPMAlgECC:
		k.algorithm = "ecc"
	case tpm2.TPMAlgRSA:
		k.algorithm = "rsa"
	}
	if a := public.ObjectAttributes; k.algorithm == "" || !a.Restricted || !a.Decrypt || !a.FixedTPM {
		return nil, fmt.Errorf("what it has at %#x is no storage key", srkHandle)
	}
	return k, nil
}

// sameStorageKey returns the storage root key, if it is the one that a token names.
func (t *TPM) sameStorageKey(serialized []byte) (*storageKey, error) {
	if len(serialized) < 4 || binary.BigEndian.Uint32(serialized) != srkHandle {
		return nil, fmt.Errorf("token: its storage key is not the one at %#x", srkHandle)
	}
	name, _, err := sized(serialized[4:])
	if err != nil {
		return nil, err
	}
	k, err := t.readStorageKey()
	if err != nil {
		return nil, err
	}
	if k == nil || !bytes.Equal(k.name.Buffer, name) {
		return nil, ErrOther
	}
	return k, nil
}

// bankOf selects a PCR of the SHA-256 bank.
func bankOf(number uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(number)},
	}}
}

// PCR reads a PCR of the SHA-256 bank.
func (t *TPM) PCR(number uint) (v pcr.Value, err error) {
	var read *tpm2.PCRReadResponse
	err = again(func() error {
		read, err = tpm2.PCRRead{PCRSelectionIn: bankOf(number)}.Execute(t.t)
		return err
	})
	if err != nil {
		return v, fmt.Errorf("read PCR %d: %w", number, err)
	}
	if d := read.PCRValues.Digests; len(d) != 1 || len(d[0].Buffer) != len(v) {
		return v, errors.New("its PCRs have no SHA-256 bank: switch it on in the firmware's setup")
	}
	return pcr.Value(read.PCRValues.Digests[0].Buffer), nil
}

// Extend extends a PCR by a word, in each bank that the TPM has: nothing but a restart takes that back. Words and what
// they mean are in package layout ([layout.PCRWord]); [pcr.Value.Extend] says what a PCR holds then.
func (t *TPM) Extend(number uint, word string) error {
	err := again(func() error {
		_, err := tpm2.PCREvent{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(number), Auth: tpm2.PasswordAuth(nil)},
			EventData: tpm2.TPM2BEvent{Buffer: []byte(word)},
		}.Execute(t.t)
		return err
	})
	if err != nil {
		return fmt.Errorf("extend PCR %d of the TPM by %q: %w", number, word, err)
	}
	return nil
}

// flush gives memory of the TPM back. Where that fails, the kernel does it when the device is closed.
func (t *TPM) flush(h tpm2.TPMHandle) { _, _ = tpm2.FlushContext{FlushHandle: h}.Execute(t.t) }

func digest(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}
