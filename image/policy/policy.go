// Package policy says which images a node or a person accepts: by containers' policy.json, as podman, skopeo and bootc
// read it (containers-policy.json(5)), and by a trust policy of the Notary Project, as notation reads it.
//
//	{"default": [REQUIREMENT, …],
//	 "transports": {"docker": {"registry.example/os": [REQUIREMENT, …], …}, …}}
//
// Of the scopes that an image is in, the most specific one counts; each of its requirements has to be met. Signatures
// are read from where the image is, never from another place, and verified with what the policy names:
//
//	sha256-<digest>.sig  a tag, cosign's first format: layers are claims (JSON). A layer's annotations say by whom:
//	                       dev.cosignproject.cosign/signature       the signature of that claim
//	                       dev.sigstore.cosign/certificate, …/chain of whoever has signed (PEM)
//	                       dev.sigstore.cosign/bundle               what a log has promised (JSON)
//	  {"critical": {"identity": {"docker-reference": NAME},
//	                "image": {"docker-manifest-digest": DIGEST},
//	                "type": "cosign container image signature"}, "optional": …}
//	a referrer           a bundle of sigstore's, application/vnd.dev.sigstore.bundle.v0.3+json, with a statement of
//	                     in-toto: predicate https://sigstore.dev/cosign/sign/v1, subject the image's name and digest
//	another referrer     notation's signature, application/vnd.cncf.notary.signature: JWS or COSE
//
// Formats: https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md and BUNDLE_SPEC.md beside it;
// https://github.com/notaryproject/specifications/blob/main/specs/signature-specification.md.
package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// maxSize bounds a policy's file in bytes.
const maxSize = 1 << 20

// containersPolicy says what is asked of an image, by where it comes from.
type containersPolicy struct {
	defaults   []requirement
	transports map[string]map[string][]requirement // by transport and scope
}

// The types of requirements.
const (
	typeAccept   = "insecureAcceptAnything"
	typeReject   = "reject"
	typeSigstore = "sigstoreSigned"
	// Of the grammar, too, and never met here: there is no GPG.
	typeGPG       = "signedBy"
	typeBaseLayer = "signedBaseLayer"
)

// requirement is one of those that an image has to meet.
type requirement struct {
	kind string
	// The rest is that of typeSigstore.
	keys     material
	fulcio   *fulcio  // whose certificates may sign; nil: keys have to
	rekor    material // of the logs of which one has to have the signature; none where that is not asked for
	identity identity
	// unsupported says what of the requirement is not checked here: then it is not met.
	unsupported string
}

// material are keys or certificates: in files, or in the policy itself.
type material struct {
	paths []string
	data  [][]byte
}

func (m material) empty() bool { return len(m.paths)+len(m.data) == 0 }

// parse reads a policy of containers'. As with the other programs that read it, what is not known is an error, as is
// a key that is there twice. A type of requirement that is known and not supported is an error of the image that it is
// asked of.
func parse(b []byte) (*containersPolicy, error) {
	if len(b) > maxSize {
		return nil, fmt.Errorf("it has more than %d bytes", maxSize)
	}
	p := &containersPolicy{transports: map[string]map[string][]requirement{}}
	f, err := object(b)
	if err != nil {
		return nil, err
	}
	var defaults json.RawMessage
	if !f.take("default", &defaults) {
		f.fail(errors.New("default: it is missing"))
	} else if p.defaults, err = parseRequirements(defaults); err != nil {
		f.fail(fmt.Errorf("default: %w", err))
	}
	var transports json.RawMessage
	if f.take("transports", &transports) {
		f.fail(p.parseTransports(transports))
	}
	return p, f.done()
}

func (p *containersPolicy) parseTransports(b []byte) error {
	transports, err := object(b)
	if err != nil {
		return fmt.Errorf("transports: %w", err)
	}
	for name, raw := range transports.all {
		scopes, err := object(raw)
		if err != nil {
			return fmt.Errorf("transports.%s: %w", name, err)
		}
		p.transports[name] = map[string][]requirement{}
		for scope, raw := range scopes.all {
			err := checkScope(name, scope)
			if err == nil {
				p.transports[name][scope], err = parseRequirements(raw)
			}
			if err != nil {
				return fmt.Errorf("transports.%s.%q: %w", name, scope, err)
			}
		}
	}
	return nil
}

func parseRequirements(b []byte) ([]requirement, error) {
	var all []json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no requirement: to accept anything write [{%q: %q}]", "type", typeAccept)
	}
	var requirements []requirement
	for i, raw := range all {
		r, err := parseRequirement(raw)
		if err != nil {
			return nil, fmt.Errorf("requirement %d: %w", i+1, err)
		}
		requirements = append(requirements, r)
	}
	return requirements, nil
}

func parseRequirement(b []byte) (r requirement, err error) {
	f, err := object(b)
	if err != nil {
		return r, err
	}
	f.take("type", &r.kind)
	switch r.kind {
	case typeAccept, typeReject:
		return r, f.done()
	case typeGPG, typeBaseLayer:
		r.unsupported = fmt.Sprintf("a requirement of the type %s (GPG) is not checked here: use %s", r.kind,
			typeSigstore)
		return r, f.failed
	case typeSigstore:
		r.parseSigstore(f)
		return r, f.done()
	case "":
		return r, errors.New("type: it is missing")
	}
	return r, fmt.Errorf("type %q: want one of %s", r.kind,
		strings.Join([]string{typeAccept, typeReject, typeSigstore, typeGPG, typeBaseLayer}, ", "))
}

func (r *requirement) parseSigstore(f *fields) {
	r.keys = f.material("key")
	ways := 0
	if !r.keys.empty() {
		ways++
	}
	var raw json.RawMessage
	if f.take("fulcio", &raw) {
		ways++
		var err error
		if r.fulcio, err = parseFulcio(raw); err != nil {
			f.fail(fmt.Errorf("fulcio: %w", err))
		}
	}
	if f.take("pki", &raw) {
		ways++
		r.unsupported = typeSigstore + ".pki is not checked here: use keyPath or fulcio"
	}
	if r.rekor = f.material("rekorPublicKey"); r.fulcio != nil && r.rekor.empty() {
		f.fail(errors.New("fulcio: rekorPublicKeyPath or the like is missing: its certificates are good for " +
			"minutes, and the log says when a signature was made"))
	}
	if ways != 1 {
		f.fail(errors.New("want one of keyPath, keyPaths, keyData, keyDatas, fulcio and pki"))
	}
	r.identity = identity{kind: matchRepoDigestOrExact}
	if f.take("signedIdentity", &raw) {
		var err error
		if r.identity, err = parseIdentity(raw); err != nil {
			f.fail(fmt.Errorf("signedIdentity: %w", err))
		}
	}
}

// fulcio says whose certificates may sign.
type fulcio struct {
	ca              material
	issuer, subject string
}

func parseFulcio(b []byte) (*fulcio, error) {
	f, err := object(b)
	if err != nil {
		return nil, err
	}
	r := &fulcio{ca: f.material("ca")}
	if len(r.ca.paths)+len(r.ca.data) != 1 {
		f.fail(errors.New("want one of caPath and caData"))
	}
	for name, to := range map[string]*string{"oidcIssuer": &r.issuer, "subjectEmail": &r.subject} {
		if f.take(name, to); *to == "" {
			f.fail(fmt.Errorf("%s: it is missing", name))
		}
	}
	return r, f.done()
}

// requirements returns what is asked of an image, and the scope that asks for it.
func (p *containersPolicy) requirements(s Subject) (scope string, all []requirement) {
	scopes := p.transports[s.transport]
	for _, scope := range append(s.scopes, "") {
		if all, ok := scopes[scope]; ok {
			return strings.TrimSpace("transports." + s.transport + " " + scope), all
		}
	}
	return "default", p.defaults
}
