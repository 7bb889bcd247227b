package builder

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	bkworker "github.com/moby/buildkit/worker"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
)

// SignKeySecret is the ID of a build's secret: the file of a private key, which signs what the outputs make of the
// image. It is asked of the client when there is something to sign, and is in no attribute, so that no record of the
// build, no provenance and no log has it. No step of a Dockerfile gets it.
const SignKeySecret = "kairos-release-key"

// Signer signs a release.
type Signer func(layout.Release) (trust.Signatures, error)

// signatures are what an exporter asks for, see Options in package exporter.
type signatures = func(context.Context, trust.Anchor, layout.Release) ([]byte, error)

// SignWith signs with keys, in this process.
func SignWith(keys []sign.Key) Signer {
	return func(r layout.Release) (trust.Signatures, error) { return sign.Release(r, keys) }
}

// signer returns what signs for a build: this builder's own, or the key that the client has as a secret. It is nil
// where there is neither.
func (w *worker) signer(ctx context.Context, sessions *session.Manager, id string) (Signer, error) {
	if w.sign != nil {
		return w.sign, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	caller, err := sessions.Get(ctx, id, false)
	if err != nil {
		return nil, fmt.Errorf("sign a release: the client is gone: %w", err)
	}
	b, err := secrets.GetSecret(ctx, caller, SignKeySecret)
	if errors.Is(err, secrets.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", SignKeySecret, err)
	}
	key, err := sign.ParseKey(b)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", SignKeySecret, err)
	}
	return SignWith([]sign.Key{key}), nil
}

// mediumSigner has what is put on a medium signed, where the image trusts keys: nobody is asked before.
func (w *worker) mediumSigner(sessions *session.Manager, id string) signatures {
	return func(ctx context.Context, a trust.Anchor, r layout.Release) ([]byte, error) {
		s, err := w.signer(ctx, sessions, id)
		if err != nil || s == nil {
			return nil, err
		}
		all, err := s(r)
		if err != nil {
			return nil, err
		}
		record, err := r.Marshal()
		if err != nil {
			return nil, err
		}
		return a.Choose(record, all).Marshal()
	}
}

// ResolveOp refuses steps that ask for the key: a Dockerfile, or the base image's ONBUILD, would take it along.
func (w *worker) ResolveOp(
	v solver.Vertex, s frontend.FrontendLLBBridge, sm *session.Manager, proxy bkworker.ProxyOpt,
) (solver.Op, error) {
	if op, ok := v.Sys().(*pb.Op); ok && asksForKey(op) {
		return nil, fmt.Errorf("step %q asks for the secret %s: it signs what the outputs make, and no step gets it",
			v.Name(), SignKeySecret)
	}
	return w.Worker.ResolveOp(v, s, sm, proxy)
}

func asksForKey(op *pb.Op) bool {
	if exec := op.GetExec(); exec != nil {
		for _, m := range exec.Mounts {
			if m.SecretOpt != nil && m.SecretOpt.ID == SignKeySecret {
				return true
			}
		}
		for _, e := range exec.Secretenv {
			if e.ID == SignKeySecret {
				return true
			}
		}
	}
	if source := op.GetSource(); source != nil {
		for _, key := range []string{
			pb.AttrAuthHeaderSecret, pb.AttrAuthTokenSecret, pb.AttrHTTPAuthHeaderSecret,
		} {
			if source.Attrs[key] == SignKeySecret {
				return true
			}
		}
	}
	return false
}
