package boot

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
)

// trustPolicy is [layout.ImageTrustPolicy]. Each field may be missing.
type trustPolicy struct {
	// Mode is [layout.TrustRequired], the default, or [layout.TrustWarn].
	Mode string `json:"mode"`
	// Threshold is how many of the keys must have signed; default 1.
	Threshold int `json:"threshold"`
	// Epoch is the lowest index against rollback of a release that is accepted.
	Epoch int64 `json:"epoch"`
	// TPM has the machine's TPM keep a lowest epoch, too, see [trust.Anchor].
	TPM bool `json:"tpm"`
	// Cmdline are words that may be on the kernel's command line besides the image's own, see [trust.Anchor].
	Cmdline []string `json:"cmdline"`
}

// Trust returns what the boot files of an image trust: the keys in its [layout.ImageTrustDir]. nil where it has none.
// Whatever else is there is an error that names it, since a key that is not read would protect nothing.
func Trust(root fs.FS, o Options) (*trust.Anchor, error) {
	t := tree{root}
	names, err := t.names(layout.ImageTrustDir)
	if err != nil {
		return nil, fmt.Errorf("/%s: %w", layout.ImageTrustDir, err)
	}
	if len(names) == 0 {
		return nil, nil
	}
	a := &trust.Anchor{}
	policy := trustPolicy{Mode: layout.TrustRequired, Threshold: 1}
	files := map[layout.Digest]string{}
	for _, name := range names {
		full := path.Join(layout.ImageTrustDir, name)
		switch {
		case full == layout.ImageTrustPolicy:
			err = t.readPolicy(full, &policy)
		case path.Ext(name) == ".pub":
			var key trust.PublicKey
			if key, err = t.readKey(full); err == nil && files[key.ID] != "" {
				err = fmt.Errorf("it is the same key as %s", files[key.ID])
			}
			a.Keys, files[key.ID] = append(a.Keys, key), name
		default:
			err = errors.New("it is neither a public key, NAME.pub, nor policy.json: remove or rename it")
		}
		if err != nil {
			return nil, fmt.Errorf("/%s: %w", full, err)
		}
	}
	trust.SortKeys(a.Keys)
	mode := cmp.Or(strings.TrimSpace(o.Trust), policy.Mode)
	if a.Warn, err = trust.ParseMode(mode); err != nil {
		return nil, fmt.Errorf("/%s and the label %s: %w", layout.ImageTrustPolicy, layout.ImageLabelTrust, err)
	}
	a.Threshold, a.Epoch, a.TPM, a.Cmdline = policy.Threshold, policy.Epoch, policy.TPM, policy.Cmdline
	slices.Sort(a.Cmdline)
	a.Cmdline = slices.Compact(a.Cmdline)
	if _, err := a.Marshal(); err != nil {
		return nil, fmt.Errorf("/%s: %w", layout.ImageTrustDir, err)
	}
	return a, nil
}

func (t tree) readPolicy(name string, to *trustPolicy) error {
	b, err := t.readFile(name, trust.MaxAnchorSize)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return err
	}
	if d.More() {
		return errors.New("something is behind the JSON object")
	}
	return nil
}

func (t tree) readKey(name string) (trust.PublicKey, error) {
	b, err := t.readFile(name, trust.MaxKeySize)
	if err != nil {
		return trust.PublicKey{}, err
	}
	return trust.ParsePublicKey(b)
}

// trustFile is what the initrd has of an anchor: with the words of the image's own command lines, which are those of
// its UKI. What the profile "debug" adds is not among them: it shows what a sealed machine does to whoever stands
// before it.
func trustFile(a *trust.Anchor, cmdline string) ([]byte, error) {
	if a == nil {
		return nil, nil
	}
	words := map[string]bool{}
	for _, w := range a.Cmdline {
		words[w] = true
	}
	for _, w := range layout.ParseCmdline(cmdline) {
		words[w] = true
	}
	for i, p := range layout.Profiles() {
		if i+1 == layout.ProfileDebug {
			continue
		}
		for _, w := range layout.ParseCmdline(p.Words) {
			words[w] = true
		}
	}
	full := *a
	full.Cmdline = slices.Sorted(maps.Keys(words))
	b, err := full.Marshal()
	if err != nil {
		return nil, fmt.Errorf("/%s: %w", layout.ImageTrustDir, err)
	}
	return b, nil
}
