// Package luks reads and writes LUKS2, the format in which Linux keeps encrypted partitions (LUKS2 On-Disk Format
// Specification 1.1.1), as far as a node's own partitions take it: one segment in aes-xts-plain64, keyslots whose key
// is derived by PBKDF2 or Argon2id, tokens of anybody. What a header states is bounded before anything is done by it.
//
//	0          binary header (4096 bytes) · JSON area          the first copy
//	hdr_size   the same, with a magic and a salt of its own    the second one
//	2·hdr_size keyslots: the volume key, split into 4000 stripes and encrypted with what the secret is derived to
//	16 MiB     the segment: sectors of the file system, encrypted with the volume key
//
// A change writes the second copy and then the first, each fsynced, so that a power cut leaves one that is whole: the
// one with the higher number counts.
package luks

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"
)

// Device holds a header. Where it has a method Sync() error, as *os.File does, that orders what is written.
type Device interface {
	io.ReaderAt
	io.WriterAt
}

// Errors of this package.
var (
	// ErrNone says that neither copy of a header is there.
	ErrNone = errors.New("no LUKS2 header")
	// ErrSecret says that a secret opens none of the keyslots that were tried.
	ErrSecret = errors.New("the key opens no keyslot")
)

const (
	binarySize = 4096
	minHeader  = 16 << 10
	maxHeader  = 4 << 20
	dataOffset = 16 << 20 // of a new segment, in bytes, as cryptsetup has it
	keySize    = 64       // of a new volume key: two keys of AES-256
	cipher     = "aes-xts-plain64"
)

var magics = [2]string{"LUKS\xba\xbe", "SKUL\xba\xbe"} // of the two copies

// Places in a binary header, all big endian.
const (
	atVersion, atSize, atSequence, atLabel = 6, 8, 16, 24
	atAlgorithm, atSalt, atUUID            = 72, 104, 168
	atSubsystem, atOffset, atSum, fixedEnd = 208, 256, 448, 512
)

// Header is a LUKS2 header in memory. [Header.Add], [Header.Remove] and [Header.Write] put it on a device.
type Header struct {
	Label, UUID string

	subsystem string
	size      int64 // of one copy
	sequence  uint64
	meta      metadata
	stale     bool // a copy on the device is damaged or old
}

// metadata is the JSON area. What others put there, and we need not know, stays as it is.
type metadata struct {
	Keyslots map[string]json.RawMessage `json:"keyslots"`
	Tokens   map[string]json.RawMessage `json:"tokens"`
	Segments map[string]json.RawMessage `json:"segments"`
	Digests  map[string]digest          `json:"digests"`
	Config   settings                   `json:"config"`
}

type settings struct {
	JSONSize     int64           `json:"json_size,string"`
	KeyslotsSize int64           `json:"keyslots_size,string"`
	Flags        json.RawMessage `json:"flags,omitempty"`
	Requirements json.RawMessage `json:"requirements,omitempty"`
}

type digest struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	Segments   []string `json:"segments"`
	Hash       string   `json:"hash"`
	Iterations int      `json:"iterations"`
	Salt       []byte   `json:"salt"`
	Digest     []byte   `json:"digest"`
}

type segment struct {
	Type       string          `json:"type"`
	Offset     int64           `json:"offset,string"`
	Size       string          `json:"size"`
	Tweak      uint64          `json:"iv_tweak,string"`
	Encryption string          `json:"encryption"`
	SectorSize int64           `json:"sector_size"`
	Integrity  json.RawMessage `json:"integrity,omitempty"`
}

// digestIterations is what is enough for a volume key, which is random: cryptsetup's least.
const digestIterations = 1000

// New returns the header of a new volume, without a keyslot, and its volume key. Label is that of the partition, and
// sectorSize that of what is encrypted at once: 512 or 4096, the disk's.
func New(label string, sectorSize int64) (*Header, []byte, error) {
	key, salt, id := make([]byte, keySize), make([]byte, 32), make([]byte, 16)
	for _, b := range [][]byte{key, salt, id} {
		rand.Read(b)
	}
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a version 4 UUID
	sum, err := pbkdf("sha256", key, salt, digestIterations, sha256.Size)
	if err != nil {
		return nil, nil, err
	}
	seg, err := json.Marshal(segment{Type: "crypt", Offset: dataOffset, Size: "dynamic", Encryption: cipher,
		SectorSize: sectorSize})
	if err != nil {
		return nil, nil, err
	}
	h := &Header{
		Label: label, UUID: fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]),
		size: minHeader,
		meta: metadata{
			Keyslots: map[string]json.RawMessage{}, Tokens: map[string]json.RawMessage{},
			Segments: map[string]json.RawMessage{"0": seg},
			Digests: map[string]digest{"0": {Type: "pbkdf2", Keyslots: []string{}, Segments: []string{"0"},
				Hash: "sha256", Iterations: digestIterations, Salt: salt, Digest: sum}},
			Config: settings{JSONSize: minHeader - binarySize, KeyslotsSize: dataOffset - 2*minHeader},
		},
	}
	return h, key, h.check()
}

// Read reads the newer of a device's two copies that are whole. [ErrNone] says that there is none.
func Read(r io.ReaderAt) (*Header, error) {
	first, err := readCopy(r, 0, 0)
	var second *Header
	if first != nil {
		second, _ = readCopy(r, 1, first.size)
	}
	// Its size is in the first copy. Where that is damaged, the specification says where to look.
	for at := int64(minHeader); first == nil && second == nil && at <= maxHeader; at *= 2 {
		var e error
		if second, e = readCopy(r, 1, at); e != nil && !errors.Is(e, ErrNone) {
			err = e
		}
	}
	h := first
	if h == nil || second != nil && second.sequence > h.sequence {
		h = second
	}
	if h == nil {
		return nil, err
	}
	h.stale = first == nil || second == nil || first.sequence != second.sequence
	return h, nil
}

// readCopy reads one of the two copies.
func readCopy(r io.ReaderAt, which int, at int64) (*Header, error) {
	fail := func(format string, args ...any) (*Header, error) {
		return nil, fmt.Errorf("LUKS2 header at %d: %w", at, fmt.Errorf(format, args...))
	}
	b := make([]byte, fixedEnd)
	if n, err := r.ReadAt(b, at); n < len(b) {
		if errors.Is(err, io.EOF) {
			return nil, ErrNone
		}
		return fail("%w", err)
	}
	if string(b[:atVersion]) != magics[which] {
		return nil, ErrNone
	}
	be := binary.BigEndian
	size := be.Uint64(b[atSize:])
	switch {
	case be.Uint16(b[atVersion:]) != 2:
		return fail("version %d: want 2", be.Uint16(b[atVersion:]))
	case size < minHeader || size > maxHeader || bits.OnesCount64(size) != 1:
		return fail("a size of %d bytes", size)
	case be.Uint64(b[atOffset:]) != uint64(at):
		return fail("it was written for %d", be.Uint64(b[atOffset:]))
	case text(b[atAlgorithm:atSalt]) != "sha256":
		return fail("a checksum by %q: want sha256", text(b[atAlgorithm:atSalt]))
	}
	all := make([]byte, size)
	if n, err := r.ReadAt(all, at); n < len(all) {
		return fail("%w", err)
	}
	sum := bytes.Clone(all[atSum:fixedEnd])
	clear(all[atSum:fixedEnd])
	if have := sha256.Sum256(all); !bytes.Equal(sum[:len(have)], have[:]) {
		return fail("its checksum does not match")
	}
	h := &Header{
		Label: text(b[atLabel:atAlgorithm]), UUID: text(b[atUUID:atSubsystem]),
		subsystem: text(b[atSubsystem:atOffset]), size: int64(size), sequence: be.Uint64(b[atSequence:]),
	}
	area, _, _ := bytes.Cut(all[binarySize:], []byte{0})
	if err := json.Unmarshal(area, &h.meta); err != nil {
		return fail("%w", err)
	}
	if err := h.check(); err != nil {
		return fail("%w", err)
	}
	return h, nil
}

func text(b []byte) string { s, _, _ := strings.Cut(string(b), "\x00"); return s }

// check says what keeps a header from being one that this package works on.
func (h *Header) check() error {
	c := h.meta.Config
	if c.JSONSize != h.size-binarySize || c.KeyslotsSize < 0 || c.KeyslotsSize > 128<<20 || c.KeyslotsSize%4096 != 0 {
		return fmt.Errorf("a JSON area of %d bytes, keyslots of %d", c.JSONSize, c.KeyslotsSize)
	}
	if r := string(c.Requirements); r != "" && r != "null" && r != "{}" && r != `{"mandatory":[]}` {
		return fmt.Errorf("it requires %s: finish what cryptsetup has begun", r)
	}
	if len(h.meta.Keyslots) > maxSlots || len(h.meta.Tokens) > maxSlots {
		return fmt.Errorf("%d keyslots, %d tokens", len(h.meta.Keyslots), len(h.meta.Tokens))
	}
	if _, err := h.segment(); err != nil {
		return err
	}
	_, d, err := h.digest()
	if err != nil {
		return err
	}
	var areas []area
	for name, raw := range h.meta.Keyslots {
		k, err := parseSlot(raw)
		if err != nil {
			return fmt.Errorf("keyslot %s: %w", name, err)
		}
		if k.Area.Offset < 2*h.size || k.Area.Offset > 2*h.size+c.KeyslotsSize-k.Area.Size {
			return fmt.Errorf("keyslot %s: it is at %d", name, k.Area.Offset)
		}
		areas = append(areas, k.Area)
	}
	slices.SortFunc(areas, func(a, b area) int { return int(a.Offset - b.Offset) })
	for i := 1; i < len(areas); i++ {
		if areas[i-1].Offset+areas[i-1].Size > areas[i].Offset {
			return errors.New("two keyslots are at one place")
		}
	}
	for _, name := range d.Keyslots {
		if h.meta.Keyslots[name] == nil {
			return fmt.Errorf("no keyslot %q", name)
		}
	}
	return nil
}

func (h *Header) segment() (s segment, err error) {
	raw, ok := h.meta.Segments["0"]
	if !ok || len(h.meta.Segments) != 1 {
		return s, errors.New("it has not one segment")
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("segment: %w", err)
	}
	size := int64(0)
	if s.Size != "dynamic" {
		if err := json.Unmarshal([]byte(s.Size), &size); err != nil || size <= 0 {
			return s, fmt.Errorf("a segment of %q bytes", s.Size)
		}
	}
	switch {
	case s.Type != "crypt" || s.Encryption != cipher || s.Integrity != nil:
		return s, fmt.Errorf("a segment of type %q in %q: want %s", s.Type, s.Encryption, cipher)
	case s.SectorSize < 512 || s.SectorSize > 4096 || s.SectorSize&(s.SectorSize-1) != 0:
		return s, fmt.Errorf("sectors of %d bytes", s.SectorSize)
	case s.Offset < 2*h.size+h.meta.Config.KeyslotsSize || s.Offset%s.SectorSize != 0 || s.Offset > 1<<40 ||
		size%s.SectorSize != 0:
		return s, fmt.Errorf("a segment of %s bytes at %d", s.Size, s.Offset)
	}
	return s, nil
}

// digest returns the segment's digest, by which a volume key is known.
func (h *Header) digest() (name string, d digest, err error) {
	for name, d = range h.meta.Digests {
		if slices.Contains(d.Segments, "0") && len(h.meta.Digests) == 1 {
			if d.Type != "pbkdf2" || len(d.Digest) < 20 || len(d.Digest) > 64 || len(d.Salt) > 64 ||
				d.Iterations < 1 || d.Iterations > maxIterations {
				return "", d, fmt.Errorf("a digest of type %q, %d iterations", d.Type, d.Iterations)
			}
			return name, d, nil
		}
	}
	return "", d, errors.New("it has not one digest")
}

// isKey says whether a key is the volume key.
func (h *Header) isKey(key []byte) (bool, error) {
	_, d, err := h.digest()
	if err != nil {
		return false, err
	}
	sum, err := pbkdf(d.Hash, key, d.Salt, d.Iterations, len(d.Digest))
	return err == nil && subtle.ConstantTimeCompare(sum, d.Digest) == 1, err
}

// Write writes both copies.
func (h *Header) Write(dev Device) error {
	if err := h.check(); err != nil {
		return fmt.Errorf("write LUKS2 header: %w", err)
	}
	area, err := json.Marshal(h.meta)
	if err == nil && int64(len(area)) >= h.size-binarySize {
		err = fmt.Errorf("its %d bytes of JSON are too many", len(area))
	}
	if err != nil {
		return fmt.Errorf("write LUKS2 header: %w", err)
	}
	h.sequence++
	for _, which := range []int{1, 0} {
		at := int64(which) * h.size
		if _, err := dev.WriteAt(h.encode(which, at, area), at); err != nil {
			return fmt.Errorf("write LUKS2 header at %d: %w", at, err)
		}
		if err := fsync(dev); err != nil { // one copy is whole at each moment
			return fmt.Errorf("write LUKS2 header at %d: %w", at, err)
		}
	}
	h.stale = false
	return nil
}

// Heal writes both copies, where one of them was damaged or old when they were read.
func (h *Header) Heal(dev Device) error {
	if !h.stale {
		return nil
	}
	return h.Write(dev)
}

func (h *Header) encode(which int, at int64, area []byte) []byte {
	b, be := make([]byte, h.size), binary.BigEndian
	copy(b, magics[which])
	be.PutUint16(b[atVersion:], 2)
	be.PutUint64(b[atSize:], uint64(h.size))
	be.PutUint64(b[atSequence:], h.sequence)
	copy(b[atLabel:atAlgorithm-1], h.Label)
	copy(b[atAlgorithm:], "sha256")
	rand.Read(b[atSalt:atUUID])
	copy(b[atUUID:atSubsystem-1], h.UUID)
	copy(b[atSubsystem:atOffset-1], h.subsystem)
	be.PutUint64(b[atOffset:], uint64(at))
	copy(b[binarySize:], area)
	sum := sha256.Sum256(b)
	copy(b[atSum:], sum[:])
	return b
}

func fsync(dev Device) error {
	if s, ok := dev.(interface{ Sync() error }); ok {
		return s.Sync()
	}
	return nil
}

// Begin returns where the segment begins, in bytes: before it are the headers and keyslots.
func (h *Header) Begin() int64 {
	s, _ := h.segment() // was checked
	return s.Offset
}

// Mapping is what dm-crypt is told of a volume, beside its key.
type Mapping struct {
	Cipher     string
	Offset     int64 // of the segment, in bytes
	Size       int64 // in bytes
	Tweak      uint64
	SectorSize int64
	// Discards says that the file system may tell the disk what is free, as `cryptsetup --allow-discards --persistent`
	// notes it. It shows to who has the disk how much is in use, and where.
	Discards bool
}

// Mapping returns how a volume is mapped on a device of some size in bytes.
func (h *Header) Mapping(size int64) (Mapping, error) {
	s, err := h.segment()
	if err != nil {
		return Mapping{}, err
	}
	var flags []string
	if f := h.meta.Config.Flags; f != nil {
		if err := json.Unmarshal(f, &flags); err != nil {
			return Mapping{}, fmt.Errorf("flags: %w", err)
		}
	}
	m := Mapping{
		Cipher: s.Encryption, Offset: s.Offset, Tweak: s.Tweak, SectorSize: s.SectorSize,
		Discards: slices.Contains(flags, "allow-discards"),
	}
	if m.Size = (size - s.Offset) / s.SectorSize * s.SectorSize; s.Size != "dynamic" {
		var want int64
		json.Unmarshal([]byte(s.Size), &want) // was checked
		if want > m.Size {
			return m, fmt.Errorf("the segment has %d bytes, and the device room for %d", want, m.Size)
		}
		m.Size = want
	}
	if m.Size <= 0 {
		return m, fmt.Errorf("the device has %d bytes, and the segment begins at %d", size, s.Offset)
	}
	return m, nil
}
