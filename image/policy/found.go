package policy

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"unicode"

	"github.com/kairos-buildkit/kairos/api"
)

// Where policies are in an image and on a node: that of containers, and the trust policy of notation.
const (
	File      = "etc/containers/policy.json"
	TrustFile = "etc/notation/trustpolicy.json"
)

// Found is a policy's file.
type Found struct {
	Name    string // of the file
	Content []byte
	Root    fs.FS // has the files that the policy names
}

// Find returns the policies below a root, those that are there.
func Find(root fs.FS) (all []Found, err error) {
	for _, name := range []string{File, TrustFile} {
		b, err := readFile(root, name, maxSize)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, Found{"/" + name, b, root})
	}
	return all, nil
}

// Check asks the policy about an image, and returns what has accepted it: one for each requirement. Nothing but what
// is beside the image is fetched. A refusal is a [RefusedError], also where the policy cannot be read.
func (f Found) Check(ctx context.Context, s Subject) ([]api.Acceptance, error) {
	all, err := f.check(ctx, s)
	// What a stranger has written into a certificate or a signature is not for a terminal.
	for _, a := range all {
		for i, signer := range a.Signers {
			a.Signers[i] = visible(signer)
		}
	}
	if refused := (*RefusedError)(nil); errors.As(err, &refused) {
		return nil, refuse("%s", visible(refused.What))
	}
	return all, err
}

// visible leaves out what is not for people to see.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

func (f Found) check(ctx context.Context, s Subject) ([]api.Acceptance, error) {
	var keys struct {
		TrustPolicies json.RawMessage `json:"trustPolicies"`
	}
	if err := json.Unmarshal(f.Content, &keys); err == nil && keys.TrustPolicies != nil {
		p, err := parseTrust(f.Content)
		if err != nil {
			return nil, refuse("it cannot be read, so that no image is accepted: %v", err)
		}
		return p.check(ctx, s, f.Root)
	}
	p, err := parse(f.Content)
	if err != nil {
		return nil, refuse("it cannot be read, so that no image is accepted: %v", err)
	}
	return p.check(ctx, s, f.Root)
}
