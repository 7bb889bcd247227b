package trust

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
)

const (
	// MaxAnchorSize bounds trust.json in bytes.
	MaxAnchorSize = 64 << 10
	// maxWords bounds the words that it allows on the kernel's command line.
	maxWords = 512
)

// Anchor is what a boot file trusts: trust.json of its initrd, [layout.InitrdTrust], made of the image's folder
// [layout.ImageTrustDir].
type Anchor struct {
	// Keys are whose signatures count, sorted by ID.
	Keys []PublicKey
	// Threshold is how many of them must have signed a release.
	Threshold int
	// Epoch is the lowest index against rollback ([layout.Release].Epoch) that a release may have.
	Epoch int64
	// TPM says that the machine's TPM holds a lowest epoch, too, which the blessed releases raise.
	TPM bool
	// Warn says that what is wrong is said, and goes on: for the time in which a fleet gets signed releases.
	Warn bool
	// Cmdline are the words that may be on the kernel's command line, sorted: whole ones, or beginnings that end with
	// "=", which allow any value.
	Cmdline []string
}

// SortKeys sorts keys as an anchor has them.
func SortKeys(keys []PublicKey) {
	slices.SortFunc(keys, func(a, b PublicKey) int { return cmp.Compare(a.ID, b.ID) })
}

type anchorV1 struct {
	Schema    int         `json:"schema"`
	Mode      string      `json:"mode"`
	Threshold int         `json:"threshold"`
	Epoch     int64       `json:"epoch"`
	TPM       bool        `json:"tpm,omitempty"` // not there where it is false, as before there was one
	Cmdline   []string    `json:"cmdline"`
	Keys      []anchorKey `json:"keys"`
}

type anchorKey struct {
	Algorithm string `json:"algorithm"`
	Key       []byte `json:"key"` // in base64
}

// Marshal returns the canonical bytes of trust.json, in the style of release.json.
func (a Anchor) Marshal() ([]byte, error) {
	if err := a.validate(); err != nil {
		return nil, fmt.Errorf("trust: %w", err)
	}
	v := anchorV1{
		Schema: 1, Mode: layout.TrustRequired, Threshold: a.Threshold, Epoch: a.Epoch, TPM: a.TPM,
		Cmdline: a.Cmdline,
	}
	if a.Warn {
		v.Mode = layout.TrustWarn
	}
	if v.Cmdline == nil {
		v.Cmdline = []string{}
	}
	for _, k := range a.Keys {
		v.Keys = append(v.Keys, anchorKey{k.Algorithm, k.Raw})
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("trust: %w", err)
	}
	if b.Len() > MaxAnchorSize {
		return nil, fmt.Errorf("trust: %d bytes, more than %d", b.Len(), MaxAnchorSize)
	}
	return b.Bytes(), nil
}

// ParseAnchor reads trust.json. It takes canonical bytes only.
func ParseAnchor(b []byte) (Anchor, error) {
	if len(b) > MaxAnchorSize {
		return Anchor{}, fmt.Errorf("trust: %d bytes, more than %d", len(b), MaxAnchorSize)
	}
	var v anchorV1
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return Anchor{}, fmt.Errorf("trust: %w", err)
	}
	if v.Schema != 1 {
		return Anchor{}, fmt.Errorf("trust: its format is number %d, and 1 is known", v.Schema)
	}
	warn, err := ParseMode(v.Mode)
	if err != nil {
		return Anchor{}, fmt.Errorf("trust: %w", err)
	}
	a := Anchor{Threshold: v.Threshold, Epoch: v.Epoch, TPM: v.TPM, Warn: warn, Cmdline: v.Cmdline}
	for i, k := range v.Keys {
		key, err := NewPublicKey(k.Algorithm, k.Key)
		if err != nil {
			return Anchor{}, fmt.Errorf("trust: key %d: %w", i+1, err)
		}
		a.Keys = append(a.Keys, key)
	}
	canonical, err := a.Marshal()
	if err != nil {
		return Anchor{}, err
	}
	if !bytes.Equal(canonical, b) {
		return Anchor{}, errors.New("trust: not in its canonical encoding")
	}
	return a, nil
}

// ParseMode reads what is required: [layout.TrustRequired] or [layout.TrustWarn].
func ParseMode(mode string) (warn bool, err error) {
	switch mode {
	case layout.TrustRequired:
		return false, nil
	case layout.TrustWarn:
		return true, nil
	}
	return false, fmt.Errorf("the mode is %q: want %s or %s", mode, layout.TrustRequired, layout.TrustWarn)
}

func (a Anchor) validate() error {
	if len(a.Keys) == 0 || len(a.Keys) > maxSignatures {
		return fmt.Errorf("%d keys: want 1 to %d", len(a.Keys), maxSignatures)
	}
	for i, k := range a.Keys {
		if i > 0 && cmp.Compare(a.Keys[i-1].ID, k.ID) >= 0 {
			return errors.New("keys: not sorted by their IDs, or one is there twice")
		}
	}
	if a.Threshold < 1 || a.Threshold > len(a.Keys) {
		return fmt.Errorf("threshold %d: want 1 to %d, as many as there are keys", a.Threshold, len(a.Keys))
	}
	if a.Epoch < 0 || a.Epoch > layout.MaxEpoch {
		return fmt.Errorf("epoch %d: want 0 to %d", a.Epoch, layout.MaxEpoch)
	}
	if len(a.Cmdline) > maxWords {
		return fmt.Errorf("command line: %d words, more than %d", len(a.Cmdline), maxWords)
	}
	for i, w := range a.Cmdline {
		if w == "" || w[0] == '=' || strings.ContainsFunc(w, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return fmt.Errorf("command line: the word %q: want ASCII without spaces", w)
		}
		if i > 0 && a.Cmdline[i-1] >= w {
			return errors.New("command line: not sorted, or a word is there twice")
		}
	}
	return nil
}

// Check says who has signed a release, and fails where that is not enough: too few of the keys, another architecture
// (in OCI's words), an epoch below the lowest. It does not look at Warn.
func (a Anchor) Check(r layout.Release, arch string) (signed []PublicKey, err error) {
	fail := func(err error) error { return fmt.Errorf("release %s (%s): %w", r.ID(), r.Version, err) }
	record, err := r.Marshal()
	if err != nil {
		return nil, err
	}
	if r.V1 {
		return nil, fail(errors.New("its release.json is in the first format, which has no epoch: export or upgrade " +
			"with the image that was signed"))
	}
	if len(r.Signatures) == 0 {
		return nil, fail(fmt.Errorf("it is not signed, and %d signatures of the keys %s are asked for: sign it with "+
			"`kairos sign`", a.Threshold, a.KeyIDs()))
	}
	s, err := ParseSignatures(r.Signatures)
	if err != nil {
		return nil, fail(err)
	}
	if signed, err = Verify(record, s, a.Keys, a.Threshold); err != nil {
		return signed, fail(err)
	}
	if r.Arch != arch {
		return signed, fail(fmt.Errorf("it is for %s, and this is %s", r.Arch, arch))
	}
	if r.Epoch < a.Epoch {
		return signed, fail(fmt.Errorf("its epoch is %d, and %d is the lowest that is accepted: take a later release",
			r.Epoch, a.Epoch))
	}
	return signed, nil
}

// KeyIDs lists the keys, for a person.
func (a Anchor) KeyIDs() string {
	var names []string
	for _, k := range a.Keys {
		names = append(names, string(k.ID))
	}
	return strings.Join(names, ", ")
}

// Words parts a kernel command line into the words that may be obeyed and those that are refused.
func (a Anchor) Words(c layout.Cmdline) (allowed, refused layout.Cmdline) {
	for _, w := range c {
		key, _, ok := strings.Cut(w, "=")
		_, whole := slices.BinarySearch(a.Cmdline, w)
		_, begins := slices.BinarySearch(a.Cmdline, key+"=")
		if whole || ok && begins && plain(w) {
			allowed = append(allowed, w)
		} else {
			refused = append(refused, w)
		}
	}
	return allowed, refused
}

// plain says whether everybody takes a word for one. The kernel and systemd part the line as /init does only where no
// quote, backslash or other space is in it: a value would hide a word from /init that one of the others obeys.
func plain(word string) bool {
	return !strings.ContainsFunc(word, func(c rune) bool {
		return c <= ' ' || c > '~' || strings.ContainsRune("\"'\\", c)
	})
}

// Choose returns what of a release's signatures is worth keeping: of each key one, of the anchor's keys one that is
// valid. Others may be those of a key that the next release trusts.
func (a Anchor) Choose(record []byte, all Signatures) Signatures {
	byKey := map[layout.Digest]Signature{}
	for _, s := range all {
		if _, have := byKey[s.Key]; !have && len(byKey) < maxSignatures {
			byKey[s.Key] = s
		}
	}
	for _, k := range a.Keys {
		for _, s := range all {
			if s.Key == k.ID && k.verify(record, s) == nil {
				byKey[k.ID] = s
				break
			}
		}
	}
	var chosen Signatures
	for _, s := range byKey {
		chosen = append(chosen, s)
	}
	chosen.Sort()
	for len(chosen) > maxSignatures { // strangers make room for the anchor's
		n := slices.IndexFunc(chosen, func(s Signature) bool {
			return !slices.ContainsFunc(a.Keys, func(k PublicKey) bool { return k.ID == s.Key })
		})
		chosen = slices.Delete(chosen, n, n+1)
	}
	return chosen
}
