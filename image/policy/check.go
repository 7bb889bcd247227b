package policy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/internal/follow"
)

// signed is a signature beside an image. Nothing of it has been checked but its digest.
type signed interface {
	// check says who has made it, where it is one by what is trusted and for this image.
	check(t *trusted, s Subject, wants identity) (signer string, err error)
}

// broken is a signature that cannot be read: it hides none that can.
type broken struct{ why error }

func (b broken) check(*trusted, Subject, identity) (string, error) { return "", b.why }

// RefusedError says that a policy does not accept an image. Any other error says that nobody knows.
type RefusedError struct{ What string }

func (e *RefusedError) Error() string { return e.What }

func refuse(format string, args ...any) error { return &RefusedError{fmt.Sprintf(format, args...)} }

// check is [Found.Check] for a policy of containers'.
func (p *containersPolicy) check(ctx context.Context, s Subject, root fs.FS) ([]api.Acceptance, error) {
	scope, all := p.requirements(s)
	var accepted []api.Acceptance
	for _, r := range all {
		signers, err := r.check(ctx, s, root)
		if refused := (*RefusedError)(nil); errors.As(err, &refused) {
			return nil, refuse("%s: %s: %s", scope, r.kind, refused.What)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", scope, r.kind, err)
		}
		accepted = append(accepted, api.Acceptance{Scope: scope, Requirement: r.kind, Signers: signers})
	}
	return accepted, nil
}

// check says who has signed an image for a requirement that it meets, or why it does not.
func (r requirement) check(ctx context.Context, s Subject, root fs.FS) (signers []string, err error) {
	switch {
	case r.unsupported != "":
		return nil, refuse("%s", r.unsupported)
	case r.kind == typeReject:
		return nil, refuse("no image from there is accepted")
	case r.kind == typeAccept:
		return nil, nil
	case len(s.descs) == 0:
		return nil, refuse("the image has no manifest there, so it cannot be signed: take it from a registry")
	case s.from == nil:
		return nil, refuse("nothing can be beside the image there, so it is not signed: take it from a registry")
	}
	trusted, err := r.trusted(root)
	if err != nil {
		return nil, err
	}
	found, err := claims(ctx, s)
	if err != nil {
		return nil, err
	}
	more, err := bundles(ctx, s)
	if err != nil {
		return nil, err
	}
	found = append(found, more...)
	if len(found) == 0 {
		return nil, refuse("the image %s is not signed: sign it with cosign", s.descs[0].Digest)
	}
	var why []string
	for _, x := range found {
		signer, err := x.check(trusted, s, r.identity)
		if err == nil {
			return []string{signer}, nil
		}
		why = append(why, err.Error())
	}
	return nil, refuse("of %d signatures none is accepted: %s", len(found), strings.Join(why, "; "))
}

// readFile reads a file of an image, whose links are absolute or not.
func readFile(root fs.FS, name string, limit int64) ([]byte, error) {
	real, _, err := follow.Links(root, name)
	if err != nil {
		return nil, err
	}
	return bounded.ReadFile(root, real, limit)
}

// maxKeySize bounds a file that a policy names, in bytes.
const maxKeySize = 64 << 10

// file is what a policy names, and what it is called.
type file struct {
	name    string
	content []byte
}

// read returns the content of all files.
func (m material) read(root fs.FS, what string) (all []file, err error) {
	for _, name := range m.paths {
		b, err := readFile(root, name, maxKeySize)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, file{name, b})
	}
	for i, b := range m.data {
		all = append(all, file{fmt.Sprintf("%s %d of the policy", what, i+1), b})
	}
	return all, nil
}
