package luks

import (
	"bytes"
	"crypto/aes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/xts"
)

type kdf struct {
	Type       string `json:"type"`
	Hash       string `json:"hash,omitempty"`       // pbkdf2
	Iterations int    `json:"iterations,omitempty"` // pbkdf2
	Time       uint32 `json:"time,omitempty"`       // argon2id
	Memory     uint32 `json:"memory,omitempty"`     // argon2id, in KiB
	CPUs       uint8  `json:"cpus,omitempty"`       // argon2id
	Salt       []byte `json:"salt"`
}

// Strength says how a keyslot's key is derived from a secret.
type Strength int

const (
	// Random is for a secret of 256 random bits, which needs no work: PBKDF2 with cryptsetup's least iterations, as
	// systemd-cryptenroll has it for recovery keys and TPMs.
	Random Strength = iota
	// Passphrase is for what people choose: Argon2id, the second recommended choice of RFC 9106, with 64 MiB.
	Passphrase
)

func (s Strength) kdf() kdf {
	k := kdf{Type: "pbkdf2", Hash: "sha512", Iterations: 1000, Salt: make([]byte, 32)}
	if s == Passphrase {
		k = kdf{Type: "argon2id", Time: 3, Memory: 64 << 10, CPUs: 4, Salt: k.Salt}
	}
	rand.Read(k.Salt)
	return k
}

// derive makes a key out of a secret. memory is how many bytes it may take.
func (k kdf) derive(secret []byte, size int, memory uint64) ([]byte, error) {
	switch k.Type {
	case "pbkdf2":
		return pbkdf(k.Hash, secret, k.Salt, k.Iterations, size)
	case "argon2id":
		if need := uint64(k.Memory) << 10; need > memory {
			return nil, fmt.Errorf("it takes %d MiB of memory, and %d MiB are allowed here", need>>20, memory>>20)
		}
		return argon2.IDKey(secret, k.Salt, k.Time, k.Memory, k.CPUs, uint32(size)), nil
	}
	return nil, fmt.Errorf("its key is derived by %q: pbkdf2 and argon2id are known here", k.Type)
}

func hashes(name string) (func() hash.Hash, error) {
	switch name {
	case "sha256":
		return sha256.New, nil
	case "sha512":
		return sha512.New, nil
	}
	return nil, fmt.Errorf("the hash %q: want sha256 or sha512", name)
}

func pbkdf(name string, secret, salt []byte, iterations, size int) ([]byte, error) {
	h, err := hashes(name)
	if err != nil {
		return nil, err
	}
	return pbkdf2.Key(h, string(secret), salt, iterations, size)
}

// crypt encrypts or decrypts a keyslot's area: sectors of 512 bytes, counted from its beginning.
func crypt(b, key []byte, encrypt bool) error {
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		return err
	}
	for at := 0; at < len(b); at += areaSector {
		s := b[at : at+areaSector]
		if encrypt {
			c.Encrypt(s, s, uint64(at/areaSector))
		} else {
			c.Decrypt(s, s, uint64(at/areaSector))
		}
	}
	return nil
}

// merge splits a key into stripes, all of which are needed to get it back (the specification's AF splitter): each is
// random, and the last one is the key, hidden by all others.
func merge(out, key []byte, name string) error {
	last := len(out) - len(key)
	rand.Read(out[:last])
	hidden, err := fold(out[:last], len(key), name)
	if err == nil {
		copy(out[last:], hidden)
		xor(out[last:], key)
	}
	return err
}

func unmerge(in []byte, size int, name string) ([]byte, error) {
	key, err := fold(in[:len(in)-size], size, name)
	if err == nil {
		xor(key, in[len(in)-size:])
	}
	return key, err
}

// fold is what stripes hide a key by: the hash, block by block and with the block's number, of each xored with the
// result so far.
func fold(in []byte, size int, name string) ([]byte, error) {
	h, err := hashes(name)
	if err != nil {
		return nil, err
	}
	sum := make([]byte, size)
	d := h()
	for stripe := range slices.Chunk(in, size) {
		xor(sum, stripe)
		var next bytes.Buffer
		n := uint32(0)
		for block := range slices.Chunk(sum, d.Size()) {
			d.Reset()
			d.Write(binary.BigEndian.AppendUint32(nil, n))
			d.Write(block)
			next.Write(d.Sum(nil)[:len(block)])
			n++
		}
		copy(sum, next.Bytes())
	}
	return sum, nil
}

func xor(a, b []byte) {
	for i := range a {
		a[i] ^= b[i]
	}
}
