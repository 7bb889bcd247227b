package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image/policy"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/store"
)

// allow asks the policies of this node about an image that is to become a release, and refuses one that they do not
// accept.
func (m *Machine) allow(ctx context.Context, ref source.Ref, img *source.Image, o registry.Options) error {
	subject, err := policy.Of(ctx, ref, img, o)
	if err != nil {
		return fmt.Errorf("image %s: %w", ref, err)
	}
	img.Accepted, err = m.ask(ctx, subject, "the image "+img.Ref)
	return err
}

// allowBeside asks the policies about the release beside an image that was accepted for its signature: that is not one
// of the release's root hashes.
func (m *Machine) allowBeside(ctx context.Context, img *source.Image, a release.Artifact) error {
	if !slices.ContainsFunc(img.Accepted, func(a api.Acceptance) bool { return len(a.Signers) > 0 }) {
		return nil
	}
	ref, err := source.Parse(img.Ref)
	if err != nil {
		return err
	}
	subject, err := policy.Of(ctx, ref, img, registry.Options{}) // what is beside it is where it was opened
	if err != nil {
		return err
	}
	_, err = m.ask(ctx, subject.Artifact(a.Manifest), "the release "+a.Manifest.Digest.String()+" beside it")
	if err != nil {
		return fmt.Errorf("the image was accepted for its signature, and %w", err)
	}
	return nil
}

// ask asks all policies of this node. Those of the running image are read from its layers, where no config can change
// them; those of the node's /etc count, too, where they are other ones, so that a config can ask for more, and never
// for less.
func (m *Machine) ask(ctx context.Context, s policy.Subject, what string) (all []api.Acceptance, err error) {
	image, err := m.imageTree()
	if err != nil {
		return nil, fmt.Errorf("the policy of the running image: %w", err)
	}
	roots := []fs.FS{os.DirFS(m.Root)}
	if image != nil {
		defer func() { err = errors.Join(err, image.Close()) }()
		roots = []fs.FS{image, roots[0]}
	}
	var asked []policy.Found
	for _, root := range roots {
		found, err := policy.Find(root)
		if err != nil {
			return nil, fmt.Errorf("the node's policies: %w", err)
		}
		for _, p := range found {
			if slices.ContainsFunc(asked, func(a policy.Found) bool { return bytes.Equal(a.Content, p.Content) }) {
				continue
			}
			asked = append(asked, p)
			accepted, err := p.Check(ctx, s)
			if refused := (*policy.RefusedError)(nil); errors.As(err, &refused) {
				return nil, refuse("the policy %s does not accept %s: %s", p.Name, what, refused.What)
			}
			if err != nil {
				return nil, fmt.Errorf("whether the policy %s accepts %s: %w", p.Name, what, err)
			}
			all = append(all, accepted...)
		}
	}
	return all, nil
}

// imageTree is the running release as its image has it, nil where its record is gone: then what runs has the rest.
func (m *Machine) imageTree() (*store.Tree, error) {
	s := m.running
	if s == nil {
		s = store.New(m.bootedStore())
	}
	r, err := s.Release(m.Boot.Release)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s.Tree(r.Layers)
}

// maxAcceptance bounds the file that says who has accepted a release, in bytes.
const maxAcceptance = 64 << 10

// acceptance is what has accepted a release when it came; nil where nobody was asked, or that cannot be read.
func acceptance(dir fs.FS, id string) (all []api.Acceptance) {
	b, err := bounded.ReadFile(dir, layout.ReleaseAcceptancePath(id), maxAcceptance)
	if err != nil || json.Unmarshal(b, &all) != nil {
		return nil
	}
	for i := range all {
		all[i].Scope = printable(all[i].Scope)
		for j, s := range all[i].Signers {
			all[i].Signers[j] = printable(s)
		}
	}
	return all
}
