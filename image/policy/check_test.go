package policy_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-containerregistry/pkg/name"
	testregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image/policy"
	"github.com/kairos-buildkit/kairos/image/policy/policytest"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/image/source"
	ours "github.com/kairos-buildkit/kairos/layout"
)

// newRegistry returns the host of a registry that this process serves.
func newRegistry(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(testregistry.New(
		testregistry.Logger(log.New(io.Discard, "", 0)), testregistry.WithReferrersSupport(true),
	))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func newImage(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

// push pushes an image, and returns its name with its digest.
func push(t *testing.T, ref string, img v1.Image) name.Digest {
	t.Helper()
	to, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to, img); err != nil {
		t.Fatal(err)
	}
	return digestOf(t, to, img)
}

func digestOf(t *testing.T, of name.Reference, img interface{ Digest() (v1.Hash, error) }) name.Digest {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return of.Context().Digest(d.String())
}

// ask asks a policy about an image.
func ask(t *testing.T, ref source.Ref, text string, root fs.FS) ([]api.Acceptance, error) {
	t.Helper()
	o := source.Options{Platform: "linux/amd64", Registry: registry.Options{AuthFiles: []string{}}}
	img, err := source.Open(t.Context(), ref, o)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	s, err := policy.Of(t.Context(), ref, img, o.Registry)
	if err != nil {
		t.Fatal(err)
	}
	return policy.Found{Content: []byte(text), Root: root}.Check(t.Context(), s)
}

func wantRefused(t *testing.T, err error, want string) {
	t.Helper()
	var refused *policy.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want a refusal with %q", err, want)
	}
}

// keys has public keys as files, k0.pub and so on.
func keys(all ...policytest.Key) fstest.MapFS {
	root := fstest.MapFS{}
	for i, k := range all {
		root["etc/k"+string(rune('0'+i))+".pub"] = &fstest.MapFile{Data: k.Public}
	}
	return root
}

func signedBy(identity string, rest ...string) string {
	if identity != "" {
		identity = `,"signedIdentity":{"type":"` + identity + `"` + strings.Join(rest, "") + `}`
	}
	return `{"default":[{"type":"sigstoreSigned","keyPath":"/etc/k0.pub"` + identity + `}]}`
}

// What is accepted, and who has signed it.
func TestAccepted(t *testing.T) {
	host := newRegistry(t)
	tag := host + "/x/os:v1"
	ref := source.Ref{Kind: source.Registry, Name: tag}
	img := newImage(t)
	digest := push(t, tag, img)
	key, second := policytest.NewKey(t), policytest.NewKey(t)
	root := keys(key, second)
	accepted := func(what string, ref source.Ref, text string, signers ...string) {
		t.Helper()
		got, err := ask(t, ref, text, root)
		if err != nil || len(got) != max(1, len(signers)) {
			t.Errorf("%s: %+v, %v", what, got, err)
			return
		}
		for i, s := range signers {
			if len(got[i].Signers) != 1 || !strings.HasPrefix(got[i].Signers[0], s) {
				t.Errorf("%s: %+v, want %s", what, got, s)
			}
		}
	}
	got, err := ask(t, ref, `{"default":[{"type":"insecureAcceptAnything"}]}`, root)
	if err != nil || len(got) != 1 || len(got[0].Signers) != 0 || got[0].Scope != "default" {
		t.Errorf("%+v, %v", got, err)
	}
	policytest.Sign(t, digest, policytest.Claim(t, digest, ""), key)
	accepted("as cosign signs", ref, signedBy("matchRepository"), "/etc/k0.pub (sha256:")
	policytest.Sign(t, digest, policytest.Claim(t, digest, tag), second, key)
	accepted("the second signature", ref, signedBy(""), "/etc/k0.pub")
	byDigest := source.Ref{Kind: source.Registry, Name: digest.Name()}
	accepted("by its digest", byDigest, signedBy(""), "/etc/k0.pub")
	accepted("two requirements", ref, `{"default":[{"type":"sigstoreSigned","keyPath":"/etc/k0.pub"},`+
		`{"type":"sigstoreSigned","keyPath":"/etc/k1.pub"}]}`, "/etc/k0.pub", "/etc/k1.pub")
	accepted("one of two keys", ref, `{"default":[{"type":"sigstoreSigned","keyDatas":["`+
		base64.StdEncoding.EncodeToString(policytest.NewKey(t).Public)+`","`+
		base64.StdEncoding.EncodeToString(key.Public)+`"]}]}`, "key 2 of the policy (sha256:")

	// A mirror has the signature of what it mirrors.
	mirror := newRegistry(t)
	copied := push(t, mirror+"/os:v1", img)
	policytest.Sign(t, copied, policytest.Claim(t, digest, tag), key)
	accepted("a mirror's", source.Ref{Kind: source.Registry, Name: mirror + "/os:v1"},
		signedBy("remapIdentity", `,"prefix":"`+mirror+`","signedPrefix":"`+host+`/x"`), "/etc/k0.pub")
	dir := t.TempDir()
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	signatures, err := remote.Image(digest.Tag(ours.Digest(digest.DigestStr()).CosignTag()))
	if err != nil {
		t.Fatal(err)
	}
	for tag, img := range map[string]v1.Image{
		"v1": img, ours.Digest(digest.DigestStr()).CosignTag(): signatures,
	} {
		named := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag})
		if err := l.AppendImage(img, named); err != nil {
			t.Fatal(err)
		}
	}
	accepted("a layout's", source.Ref{Kind: source.OCILayout, Name: dir + ":v1"},
		signedBy("exactReference", `,"dockerReference":"`+tag+`"`), "/etc/k0.pub")

	// Whoever signs an index signs what it lists.
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img})
	to, err := name.ParseReference(host + "/x/all:v1")
	if err == nil {
		err = remote.WriteIndex(to, index)
	}
	if err != nil {
		t.Fatal(err)
	}
	all := digestOf(t, to, index)
	policytest.Sign(t, all, policytest.Claim(t, all, ""), key)
	accepted("an index", source.Ref{Kind: source.Registry, Name: to.Name()}, signedBy("matchRepository"),
		"/etc/k0.pub")

	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []policytest.Key{
		policytest.KeyOf(t, rsaKey), policytest.KeyOf(t, p384), policytest.KeyOf(t, ed),
	} {
		root = keys(k)
		policytest.Sign(t, digest, policytest.Claim(t, digest, ""), k)
		accepted("another kind of key", ref, signedBy("matchRepository"), "/etc/k0.pub")
	}
}

// What is refused, each with its reason.
func TestRefused(t *testing.T) {
	host := newRegistry(t)
	tag := host + "/x/os:v1"
	ref := source.Ref{Kind: source.Registry, Name: tag}
	img := newImage(t)
	digest := push(t, tag, img)
	other := push(t, host+"/x/other:v1", newImage(t))
	key, stranger := policytest.NewKey(t), policytest.NewKey(t)
	root := keys(key)
	refused := func(what, text, want string) {
		t.Helper()
		_, err := ask(t, ref, text, root)
		t.Run(what, func(t *testing.T) { wantRefused(t, err, want) })
	}
	refused("reject", `{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"`+host+
		`/x":[{"type":"reject"}]}}}`, "transports.docker "+host+"/x: reject: no image from there")
	refused("GPG", `{"default":[{"type":"signedBy","keyPath":"/k"}]}`, "signedBy (GPG) is not checked here")
	refused("both", `{"default":[{"type":"insecureAcceptAnything"},{"type":"reject"}]}`, "no image from there")
	repository := signedBy("matchRepository")
	refused("unsigned", repository, "is not signed")

	claim := policytest.Claim(t, digest, "")
	policytest.Sign(t, digest, claim, stranger)
	refused("a stranger's", repository, "of 1 signatures none is accepted: it is none of /etc/k0.pub (sha256:")
	policytest.Sign(t, digest, policytest.Claim(t, other, ""), key)
	refused("another digest's", repository, `it is for the digest "`+other.DigestStr())
	policytest.Sign(t, digest, policytest.Claim(t, digest, host+"/x/other"), key)
	refused("another repository's", repository,
		"it is for "+host+"/x/other, and signedIdentity (matchRepository) wants "+
			host+"/x/os")
	policytest.Sign(t, digest, claim, key)
	refused("for no tag", signedBy(""), "that is signedIdentity matchRepository")
	policytest.Sign(t, digest, policytest.Claim(t, digest, host+"/x/os:v2"), key)
	refused("another tag's", signedBy(""), "wants "+tag)
	refused("one of two requirements",
		`{"default":[{"type":"sigstoreSigned","keyPath":"/etc/k0.pub","signedIdentity":`+
			`{"type":"matchRepository"}},{"type":"reject"}]}`, "no image from there")

	signature, err := key.SignMessage(bytes.NewReader(claim))
	if err != nil {
		t.Fatal(err)
	}
	policytest.Push(t, digest, policytest.Layer(append(claim, ' '), signature, nil))
	refused("a changed claim", repository, "it is none of")
	policytest.Push(t, digest, policytest.Layer(claim, nil, nil))
	refused("no signature", repository, "it is none of")
	policytest.Push(t, digest, policytest.Layer(claim, signature, map[string]string{
		"dev.cosignproject.cosign/signature": "?",
	}))
	refused("no base64", repository, "illegal base64")
	policytest.Push(t, digest, policytest.Layer(bytes.Repeat([]byte{' '}, 65<<10), signature, nil))
	refused("a large claim", repository, "more than 65536")
	var kind map[string]map[string]any
	if err := json.Unmarshal(claim, &kind); err != nil {
		t.Fatal(err)
	}
	kind["critical"]["type"] = "atomic container signature"
	b, err := json.Marshal(kind)
	if err != nil {
		t.Fatal(err)
	}
	policytest.Sign(t, digest, b, key)
	refused("another type", repository, `has the type "atomic container signature"`)
	policytest.Push(t, digest)
	refused("an empty list", repository, "is not signed")

	for kind, name := range map[source.Kind]string{source.Directory: t.TempDir()} {
		_, err := ask(t, source.Ref{Kind: kind, Name: name}, repository, root)
		wantRefused(t, err, "has no manifest there")
	}

	// What cannot be read is no refusal: another try may find it.
	_, err = ask(t, ref, repository, fstest.MapFS{})
	if refused := (*policy.RefusedError)(nil); err == nil || errors.As(err, &refused) ||
		!strings.Contains(err.Error(), "/etc/k0.pub") {
		t.Errorf("no key: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	repo, desc, err := registry.Find(t.Context(), tag, registry.Options{AuthFiles: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	opened := &source.Image{Repository: repo}
	opened.Manifest = desc
	s, err := policy.Of(t.Context(), ref, opened, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = (policy.Found{Content: []byte(repository), Root: root}).Check(gone, s); err == nil || errors.As(err,
		new(*policy.RefusedError)) {
		t.Errorf("no network: %v", err)
	}
	if all, err := policy.Find(fstest.MapFS{}); err != nil || len(all) != 0 {
		t.Error(all, err)
	}
	all, err := policy.Find(fstest.MapFS{
		"etc/containers/policy.json":    {Mode: fs.ModeSymlink, Data: []byte("/usr/share/p.json")},
		"usr/share/p.json":              {Data: []byte("{}")},
		"etc/notation/trustpolicy.json": {Data: []byte("[]")},
	})
	if err != nil || len(all) != 2 || string(all[0].Content) != "{}" ||
		all[1].Name != "/etc/notation/trustpolicy.json" {
		t.Errorf("%+v, %v", all, err)
	}
}

const (
	signPredicate = "https://sigstore.dev/cosign/sign/v1"
	person        = "release@example.com"
	issuer        = "https://accounts.example.com"
)

// keyless is a policy that asks for somebody's certificate.
func keyless(who, by string) string {
	return `{"default":[{"type":"sigstoreSigned","fulcio":{"caPath":"/etc/ca.pem","oidcIssuer":"` + by +
		`","subjectEmail":"` + who + `"},"rekorPublicKeyPath":"/etc/rekor.pub",` +
		`"signedIdentity":{"type":"matchRepository"}}]}`
}

// Somebody's certificate, a log's promise and sigstore's bundles, without a network: what is accepted, and what is
// not.
func TestSigstore(t *testing.T) {
	host := newRegistry(t)
	tag := host + "/x/os:v1"
	ref := source.Ref{Kind: source.Registry, Name: tag}
	digest := push(t, tag, newImage(t))
	other := push(t, host+"/x/other:v1", newImage(t))
	claim := policytest.Claim(t, digest, "")
	ours, theirs, key := policytest.NewSigstore(t), policytest.NewSigstore(t), policytest.NewKey(t)
	ca, between := ours.CA(t)
	root := keys(key)
	root["etc/ca.pem"] = &fstest.MapFile{Data: ca}
	root["etc/rekor.pub"] = &fstest.MapFile{Data: ours.LogKey(t)}
	accepted := func(what, text, signer string) {
		t.Helper()
		got, err := ask(t, ref, text, root)
		if err != nil || len(got) != 1 || len(got[0].Signers) != 1 || !strings.HasPrefix(got[0].Signers[0], signer) {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
	refused := func(what, text, want string) {
		t.Helper()
		_, err := ask(t, ref, text, root)
		t.Run(what, func(t *testing.T) { wantRefused(t, err, want) })
	}
	policy := keyless(person, issuer)
	signs := func(s policytest.Sigstore, claim []byte, who, by string, minutes int) {
		policytest.Push(t, digest, s.Claim(t, claim, who, by, minutes))
	}
	signs(ours, claim, person, issuer, 5)
	accepted("a certificate", policy, person+" ("+issuer+")")
	refused("a certificate for a key", signedBy("matchRepository"), "expected key signature, not certificate")
	refused("another person", keyless("other@example.com", issuer), "certificate identity")
	refused("another issuer", keyless(person, "https://other.example.com"), "certificate identity")
	signs(ours, claim, person, issuer, 30)
	refused("after the certificate's time", policy, "integrated time outside certificate validity")
	signs(theirs, claim, person, issuer, 5)
	refused("a stranger's sigstore", policy, "not enough verified log entries")
	both := strings.Replace(policy, `"rekorPublicKeyPath":"/etc/rekor.pub"`,
		`"rekorPublicKeyPaths":["/etc/rekor.pub","/etc/theirs.pub"]`, 1)
	root["etc/theirs.pub"] = &fstest.MapFile{Data: theirs.LogKey(t)}
	refused("a stranger's CA", both, "leaf certificate")
	signs(ours, policytest.Claim(t, other, ""), person, issuer, 5)
	refused("another digest's", policy, "it is for the digest")
	signs(ours, policytest.Claim(t, digest, host+"/x/other"), person, issuer, 5)
	refused("another repository's", policy, "it is for "+host+"/x/other")
	forged := ours.Claim(t, claim, person, issuer, 5)
	foreign := ours.Claim(t, policytest.Claim(t, other, ""), person, issuer, 5)
	forged.Annotations["dev.sigstore.cosign/bundle"] = foreign.Annotations["dev.sigstore.cosign/bundle"]
	policytest.Push(t, digest, forged)
	refused("another entry of the log", policy, "transparency log signature does not match")
	delete(forged.Annotations, "dev.sigstore.cosign/bundle")
	policytest.Push(t, digest, forged)
	refused("not in the log", policy, "not enough verified log entries")
	policytest.Sign(t, digest, claim, key)
	refused("a key for a certificate", policy, "not enough verified log entries")

	// A certificate for a URI, and one whose name is not for a terminal.
	const workflow = "https://forge.example.com/os/.workflows/release@refs/heads/main"
	workflowCA, layer := ours.Workflow(t, claim, workflow, issuer)
	root["etc/ca.pem"] = &fstest.MapFile{Data: workflowCA}
	policytest.Push(t, digest, layer)
	accepted("a workflow", keyless(workflow, issuer), workflow+" ("+issuer+")")
	refused("another workflow", keyless(workflow+"x", issuer), "certificate identity")
	root["etc/ca.pem"] = &fstest.MapFile{Data: ca}
	signs(ours, claim, "\x1b[2J"+person, issuer, 5)
	accepted("a name with a control character", keyless("\\u001b[2J"+person, issuer), "[2J"+person)

	// Keys whose signatures have to be in a log.
	logged := `{"default":[{"type":"sigstoreSigned","keyPath":"/etc/k0.pub","rekorPublicKeyPath":"/etc/rekor.pub",` +
		`"signedIdentity":{"type":"matchRepository"}}]}`
	policytest.Sign(t, digest, claim, key)
	refused("a key, not in the log", logged, "not enough verified log entries")
	signature, err := key.SignMessage(bytes.NewReader(claim))
	if err != nil {
		t.Fatal(err)
	}
	policytest.Push(t, digest, policytest.Layer(claim, signature, ours.Logged(t, claim, signature, key.Public)))
	accepted("a key, in the log", logged, "/etc/k0.pub")
	policytest.Push(t, digest, policytest.Layer(claim, signature, theirs.Logged(t, claim, signature, key.Public)))
	refused("a key, in another log", logged, "not enough verified log entries")
	policytest.Push(t, digest)

	// Bundles. They stay, so each of these is beside the ones before it.
	byKey := signedBy("matchRepository")
	repository := host + "/x/os"
	root["etc/ca.pem"] = &fstest.MapFile{Data: append(ca, between...)}
	attach := func(b []byte) { policytest.Attach(t, digest, b) }
	statement := func(as string) []byte { return policytest.Statement(t, signPredicate, as, digest) }
	attach(key.Bundle(t, policytest.Statement(t, "https://slsa.dev/provenance/v1", repository, digest)))
	refused("what it was built from", byKey, "is not signed")
	attach(policytest.NewKey(t).Bundle(t, statement(repository)))
	refused("a stranger's bundle", byKey, "it is none of /etc/k0.pub")
	attach(key.Bundle(t, policytest.Statement(t, signPredicate, repository, other)))
	refused("another digest's bundle", byKey, `it is for the digest "`+other.DigestStr())
	attach(key.Bundle(t, statement(host+"/x/other")))
	refused("another repository's bundle", byKey, "it is for "+host+"/x/other")
	attach(key.Bundle(t, statement("")))
	refused("a bundle without a name", byKey, "cosign sign --new-bundle-format=false")
	attach([]byte("{}"))
	refused("no bundle", byKey, "of 5 signatures none is accepted")
	attach(theirs.Bundle(t, statement(repository), person, issuer))
	refused("a stranger's sigstore's bundle", both, "leaf certificate")
	attach(ours.Bundle(t, statement(repository), "other@example.com", issuer))
	refused("another person's bundle", policy, "certificate identity")
	attach(ours.Bundle(t, statement(repository), person, issuer))
	accepted("a certificate's bundle", policy, person+" ("+issuer+")")
	refused("a bundle of certificates", byKey, "expected key signature, not certificate")
	attach(key.Bundle(t, statement(repository)))
	accepted("a key's bundle", byKey, "/etc/k0.pub")
}

// trustPolicy is one of notation's, of a level, for a scope.
func trustPolicy(level, scope, identity string) string {
	return `{"version":"1.0","trustPolicies":[{"name":"release","registryScopes":["` + scope + `"],` +
		`"signatureVerification":{"level":"` + level + `"},"trustStores":["ca:example"],` +
		`"trustedIdentities":["` + identity + `"]}]}`
}

// A trust policy of notation's: what is accepted, and what is not.
func TestNotation(t *testing.T) {
	host := newRegistry(t)
	const jws, cose = "application/jose+json", "application/cose"
	signer, chain, stranger := policytest.NewSigner(t, "release"), policytest.NewChain(t, "below"),
		policytest.NewSigner(t, "stranger")
	store := "etc/notation/truststore/x509/ca/example/"
	root := fstest.MapFS{
		store + "a.pem": {Data: signer.Root}, store + "b.crt": {Data: chain.Root},
	}
	n := 0
	fresh := func() (source.Ref, name.Digest) {
		t.Helper()
		n++
		tag := host + "/x/os" + string(rune('a'+n)) + ":v1"
		return source.Ref{Kind: source.Registry, Name: tag}, push(t, tag, newImage(t))
	}
	accepted := func(what string, ref source.Ref, text, requirement string, signers ...string) {
		t.Helper()
		got, err := ask(t, ref, text, root)
		if err != nil || len(got) != 1 || !slices.Equal(got[0].Signers, signers) || got[0].Scope != "release" ||
			got[0].Requirement != requirement {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
	refused := func(what string, ref source.Ref, text, want string) {
		t.Helper()
		_, err := ask(t, ref, text, root)
		t.Run(what, func(t *testing.T) { wantRefused(t, err, want) })
	}
	ref, digest := fresh()
	repository := digest.Context().Name()
	all := trustPolicy("strict", "*", "*")
	refused("unsigned", ref, all, "release: the image "+digest.DigestStr()+" is not signed")
	accepted("skip", ref, `{"version":"1.0","trustPolicies":[{"name":"release","registryScopes":["*"],`+
		`"signatureVerification":{"level":"skip"}}]}`, "notation skip")
	_, other := fresh()
	signer.Notate(t, other, digest, jws)
	refused("another digest's", ref, all, "content descriptor mismatch")
	stranger.Notate(t, digest, digest, jws)
	refused("a stranger's", ref, all, "of 2 signatures none is accepted")
	policytest.AttachAs(t, digest, ours.NotationType, jws, nil, []byte("{}"))
	refused("no signature", ref, all, "of 3 signatures none is accepted")
	refused("no statement", ref, trustPolicy("strict", host+"/x/other", "*"), "no statement is for "+repository)
	refused("no version", ref, strings.Replace(all, "1.0", "9.9", 1),
		"no image is accepted: trust policy document uses")
	refused("an unknown field", ref, strings.Replace(all, "name", "nom", 1), `unknown field "nom"`)
	// A policy that only audits takes a stranger's, and says nobody's name.
	accepted("audit", ref, trustPolicy("audit", "*", "*"), "notation audit")

	signer.Notate(t, digest, digest, jws)
	accepted("JWS", ref, all, "notation strict", signer.Name())
	accepted("for the repository", ref, trustPolicy("strict", repository, "*"), "notation strict", signer.Name())
	refused("another name", ref, trustPolicy("strict", "*", "x509.subject: C=US, ST=WA, L=Seattle, O=Other"), "of 4")
	ref, digest = fresh()
	chain.Notate(t, digest, digest, cose)
	accepted("COSE, by a certificate below a root", ref, all, "notation strict", chain.Name())
	_, err := ask(t, ref, all, fstest.MapFS{})
	wantRefused(t, err, "trust store ca:example")
	root[store+"b.crt"] = &fstest.MapFile{Data: []byte("x")}
	refused("a certificate that cannot be read", ref, all, "b.crt")
}
