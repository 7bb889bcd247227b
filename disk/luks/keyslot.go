package luks

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// Bounds of what a header may state.
const (
	maxSlots      = 32
	maxIterations = 1 << 26
	maxPasses     = 64
	maxLanes      = 16
	stripes       = 4000 // the specification's only number
	areaSector    = 512
)

type keyslot struct {
	Type     string `json:"type"`
	KeySize  int    `json:"key_size"`
	AF       split  `json:"af"`
	Area     area   `json:"area"`
	KDF      kdf    `json:"kdf"`
	Priority *int   `json:"priority,omitempty"` // 0: opened by its number alone
}

type split struct {
	Type    string `json:"type"`
	Stripes int    `json:"stripes"`
	Hash    string `json:"hash"`
}

type area struct {
	Type       string `json:"type"`
	Offset     int64  `json:"offset,string"`
	Size       int64  `json:"size,string"`
	Encryption string `json:"encryption"`
	KeySize    int    `json:"key_size"`
}

func parseSlot(raw json.RawMessage) (k keyslot, err error) {
	if err := json.Unmarshal(raw, &k); err != nil {
		return k, err
	}
	switch {
	case k.Type != "luks2" || k.AF.Type != "luks1" || k.Area.Type != "raw" || k.Area.Encryption != cipher:
		return k, fmt.Errorf("types %q, %q, %q in %q", k.Type, k.AF.Type, k.Area.Type, k.Area.Encryption)
	case k.KeySize != 32 && k.KeySize != 64 || k.Area.KeySize != 32 && k.Area.KeySize != 64:
		return k, fmt.Errorf("keys of %d and %d bytes", k.KeySize, k.Area.KeySize)
	case k.AF.Stripes != stripes || k.Area.Size < int64(k.KeySize*stripes) || k.Area.Size > 1<<20:
		return k, fmt.Errorf("%d stripes in %d bytes", k.AF.Stripes, k.Area.Size)
	case len(k.KDF.Salt) == 0 || len(k.KDF.Salt) > 64:
		return k, fmt.Errorf("a salt of %d bytes", len(k.KDF.Salt))
	case k.KDF.Type == "pbkdf2" && (k.KDF.Iterations < 1 || k.KDF.Iterations > maxIterations):
		return k, fmt.Errorf("%d iterations", k.KDF.Iterations)
	case k.KDF.Type == "argon2id" && (k.KDF.Time < 1 || k.KDF.Time > maxPasses || k.KDF.CPUs < 1 ||
		k.KDF.CPUs > maxLanes || k.KDF.Memory < 8*uint32(k.KDF.CPUs)):
		return k, fmt.Errorf("argon2id with %d passes, %d KiB, %d lanes", k.KDF.Time, k.KDF.Memory, k.KDF.CPUs)
	}
	return k, nil // a kdf that we do not know opens nothing, and is no reason to leave the others alone
}

// Add adds a keyslot that a secret opens, and a token for it, where one is given: its JSON, to which the keyslot's
// number is added. Both are on the device when it returns.
func (h *Header) Add(dev Device, key, secret []byte, s Strength, token map[string]any) error {
	fail := func(err error) error { return fmt.Errorf("add a keyslot to %s: %w", h.Label, err) }
	if ok, err := h.isKey(key); err != nil || !ok {
		return fail(errors.Join(err, errors.New("this is not the volume's key")))
	}
	name, err := free(h.meta.Keyslots)
	if err != nil {
		return fail(err)
	}
	k := keyslot{
		Type: "luks2", KeySize: len(key), AF: split{"luks1", stripes, "sha256"}, KDF: s.kdf(),
		Area: area{Type: "raw", Encryption: cipher, KeySize: keySize, Size: (int64(len(key)*stripes) + 4095) &^ 4095},
	}
	if k.Area.Offset, err = h.room(k.Area.Size); err != nil {
		return fail(err)
	}
	derived, err := k.KDF.derive(secret, k.Area.KeySize, uint64(k.KDF.Memory)<<10)
	if err != nil {
		return fail(err)
	}
	material := make([]byte, k.Area.Size)
	if err := merge(material[:len(key)*stripes], key, k.AF.Hash); err != nil {
		return fail(err)
	}
	if err := crypt(material, derived, true); err != nil {
		return fail(err)
	}
	if _, err := dev.WriteAt(material, k.Area.Offset); err != nil {
		return fail(err)
	}
	if err := fsync(dev); err != nil { // what the header names is there
		return fail(err)
	}
	raw, err := json.Marshal(k)
	if err != nil {
		return fail(err)
	}
	next := h.meta.clone()
	next.Keyslots[name] = raw
	id, d, err := h.digest()
	if err != nil {
		return fail(err)
	}
	d.Keyslots = append(slices.Clone(d.Keyslots), name)
	next.Digests[id] = d
	if token != nil {
		t := maps.Clone(token)
		t["keyslots"] = []string{name}
		number, err := free(next.Tokens)
		if err != nil {
			return fail(err)
		}
		if next.Tokens[number], err = json.Marshal(t); err != nil {
			return fail(err)
		}
	}
	return h.replace(dev, next)
}

// replace writes other metadata; where that fails, the header is as before.
func (h *Header) replace(dev Device, next metadata) error {
	was := h.meta
	h.meta = next
	err := h.Write(dev)
	if err != nil {
		h.meta = was
	}
	return err
}

func (m metadata) clone() metadata {
	m.Keyslots, m.Tokens, m.Digests = maps.Clone(m.Keyslots), maps.Clone(m.Tokens), maps.Clone(m.Digests)
	if m.Tokens == nil {
		m.Tokens = map[string]json.RawMessage{}
	}
	if m.Keyslots == nil {
		m.Keyslots = map[string]json.RawMessage{}
	}
	return m
}

// free returns the lowest number that is not taken.
func free(taken map[string]json.RawMessage) (string, error) {
	for n := range maxSlots {
		if name := strconv.Itoa(n); taken[name] == nil {
			return name, nil
		}
	}
	return "", fmt.Errorf("all %d are taken: remove one", maxSlots)
}

// room returns where the keyslots have room for one more, in bytes.
func (h *Header) room(size int64) (int64, error) {
	at := 2 * h.size
	var areas []area
	for _, raw := range h.meta.Keyslots {
		k, err := parseSlot(raw)
		if err != nil {
			return 0, err
		}
		areas = append(areas, k.Area)
	}
	slices.SortFunc(areas, func(a, b area) int { return int(a.Offset - b.Offset) })
	for _, a := range areas {
		if a.Offset-at >= size {
			break
		}
		at = a.Offset + a.Size
	}
	if at+size > 2*h.size+h.meta.Config.KeyslotsSize {
		return 0, errors.New("there is no room for one more: remove one")
	}
	return at, nil
}

// Remove destroys a keyslot, and the tokens that were for it alone.
func (h *Header) Remove(dev Device, name string) error {
	fail := func(err error) error { return fmt.Errorf("remove keyslot %s of %s: %w", name, h.Label, err) }
	raw := h.meta.Keyslots[name]
	if raw == nil {
		return fail(errors.New("there is none"))
	}
	k, err := parseSlot(raw)
	if err != nil {
		return fail(err)
	}
	noise := make([]byte, k.Area.Size)
	rand.Read(noise)
	if _, err := dev.WriteAt(noise, k.Area.Offset); err != nil {
		return fail(err)
	}
	if err := fsync(dev); err != nil { // the key is gone before the header says so
		return fail(err)
	}
	next := h.meta.clone()
	delete(next.Keyslots, name)
	for id, d := range next.Digests {
		d.Keyslots = slices.DeleteFunc(slices.Clone(d.Keyslots), func(s string) bool { return s == name })
		next.Digests[id] = d
	}
	for id, t := range h.Tokens() {
		if !slices.Contains(t.Keyslots, name) {
			continue
		}
		var all map[string]json.RawMessage
		if err := json.Unmarshal(t.Raw, &all); err != nil {
			return fail(err)
		}
		left := slices.DeleteFunc(t.Keyslots, func(s string) bool { return s == name })
		if len(left) == 0 {
			delete(next.Tokens, id)
			continue
		}
		all["keyslots"], _ = json.Marshal(left)
		next.Tokens[id], _ = json.Marshal(all)
	}
	return h.replace(dev, next)
}

// Slots returns the numbers of the keyslots, the lowest first.
func (h *Header) Slots() []string {
	return slices.SortedFunc(maps.Keys(h.meta.Keyslots), func(a, b string) int {
		x, _ := strconv.Atoi(a)
		y, _ := strconv.Atoi(b)
		return x - y
	})
}

// Open returns the volume key that a secret opens by one of the keyslots, all where none is named, and the keyslot.
// memory bounds in bytes what the derivation may take. [ErrSecret] says that the secret is another one.
func (h *Header) Open(dev Device, secret []byte, memory uint64, slots ...string) (key []byte, slot string, err error) {
	if len(slots) == 0 {
		slots = h.Slots()
	}
	_, d, err := h.digest()
	if err != nil {
		return nil, "", err
	}
	var errs []error
	for _, name := range slots {
		if h.meta.Keyslots[name] == nil || !slices.Contains(d.Keyslots, name) {
			continue
		}
		key, err := h.open(dev, name, secret, memory)
		if err != nil {
			errs = append(errs, fmt.Errorf("keyslot %s: %w", name, err))
			continue
		}
		if ok, err := h.isKey(key); err != nil {
			errs = append(errs, err)
		} else if ok {
			return key, name, nil
		}
	}
	return nil, "", errors.Join(append([]error{ErrSecret}, errs...)...)
}

func (h *Header) open(dev Device, name string, secret []byte, memory uint64) ([]byte, error) {
	k, err := parseSlot(h.meta.Keyslots[name])
	if err != nil {
		return nil, err
	}
	derived, err := k.KDF.derive(secret, k.Area.KeySize, memory)
	if err != nil {
		return nil, err
	}
	n := k.KeySize * stripes
	material := make([]byte, (n+areaSector-1)/areaSector*areaSector)
	if got, err := dev.ReadAt(material, k.Area.Offset); got < len(material) {
		return nil, err
	}
	if err := crypt(material, derived, false); err != nil {
		return nil, err
	}
	return unmerge(material[:n], k.KeySize, k.AF.Hash)
}
