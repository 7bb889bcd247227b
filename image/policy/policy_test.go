package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/distribution/reference"

	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/image/source"
)

// What a policy may say, and how what it may not is refused.
func TestParse(t *testing.T) {
	const accept = `[{"type":"insecureAcceptAnything"}]`
	signed := func(fields string) string { return `{"default":[{"type":"sigstoreSigned",` + fields + `}]}` }
	for _, x := range []struct{ policy, want string }{
		{`{"default":` + accept + `}`, ""},
		{`{"default":[{"type":"reject"}],"transports":{"docker":{"":` + accept +
			`,"*.example.com":` + accept + `}}}`, ""},
		// Of programs that know more places than these.
		{`{"default":` + accept + `,"transports":{"atomic":{"x":` + accept + `}}}`, ""},
		{`{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/etc/pki/rpm-gpg/RPM-GPG-KEY"}]}`, ""},
		{signed(`"keyPath":"/etc/a.pub"`), ""},
		{signed(`"keyPaths":["/a","/b"],"signedIdentity":{"type":"matchRepository"}`), ""},
		{signed(`"keyData":"aGVsbG8="`), ""},
		{signed(`"keyDatas":["aGVsbG8="],"signedIdentity":` +
			`{"type":"exactReference","dockerReference":"a.example/b:c"}`), ""},
		{signed(`"keyPath":"/a","signedIdentity":` +
			`{"type":"remapIdentity","prefix":"m.example/a","signedPrefix":"a.example"}`), ""},

		{``, "want a JSON object"},
		{`[]`, "want a JSON object"},
		{`{}`, "default: it is missing"},
		{`{"default":[]}`, "no requirement"},
		{`{"default":` + accept + `,"Default":` + accept + `}`, `field "Default" is not known`},
		{`{"default":` + accept + `,"default":[{"type":"reject"}]}`, "it is there twice"},
		{`{"default":` + accept + `}{}`, "something follows"},
		{`{"default":[{"type":"acceptAnything"}]}`, `type "acceptAnything": want one of`},
		{`{"default":[{}]}`, "type: it is missing"},
		{`{"default":[{"type":"reject","reason":"x"}]}`, `field "reason" is not known`},
		{`{"default":[{"type":"reject","type":"insecureAcceptAnything"}]}`, "it is there twice"},
		{`{"default":` + accept + `,"transports":{"docker":{"":[]}}}`, `transports.docker."": no requirement`},
		{`{"default":` + accept + `,"transports":{"docker":{"a*.example.com":` + accept + `}}}`,
			"only taken as *.DOMAIN"},
		{`{"default":` + accept + `,"transports":{"docker":{"*.a.*.com":` + accept + `}}}`, "want *.DOMAIN"},
		{`{"default":` + accept + `,"transports":{"oci":{"here":` + accept + `}}}`, "want a path from / on"},
		{`{"default":` + accept + `,"transports":{"oci":{"/":` + accept + `}}}`, "want a path from / on"},
		{`{"default":` + accept + `,"transports":{"docker-archive":{"/a":` + accept + `}}}`, "only the scope"},
		{signed(`"fulcio":{"caPath":"/c","oidcIssuer":"i","subjectEmail":"e"},"rekorPublicKeyPath":"/r"`), ""},
		{signed(`"keyPath":"/a","rekorPublicKeyDatas":["aGVsbG8="]`), ""},
		{signed(`"pki":{"caRootsPath":"/c","subjectEmail":"e"}`), ""},
		{signed(`"x":1`), "want one of keyPath"},
		{signed(`"fulcio":{"caPath":"/c","oidcIssuer":"i","subjectEmail":"e"}`),
			"rekorPublicKeyPath or the like is missing"},
		{signed(`"fulcio":{"oidcIssuer":"i","subjectEmail":"e"},"rekorPublicKeyPath":"/r"`), "want one of caPath"},
		{signed(`"fulcio":{"caPath":"/c","oidcIssuer":"i"},"rekorPublicKeyPath":"/r"`),
			"subjectEmail: it is missing"},
		{signed(`"fulcio":{"caPath":"/c","subjectEmail":"e"},"rekorPublicKeyPath":"/r"`),
			"oidcIssuer: it is missing"},
		{signed(`"fulcio":{"caPaths":["/c","/d"],"oidcIssuer":"i","subjectEmail":"e"},"rekorPublicKeyPath":"/r"`),
			"want one of caPath"},
		{signed(`"fulcio":{"caPath":"/c","oidcIssuer":"i","subjectEmail":"e","x":1},"rekorPublicKeyPath":"/r"`),
			`field "x" is not known`},
		{signed(`"keyPath":"/a","rekorPublicKeyPath":"r"`), "want the whole path"},
		{signed(`"keyPath":"/a","fulcio":{"caPath":"/c",` +
			`"oidcIssuer":"i","subjectEmail":"e"},"rekorPublicKeyPath":"/r"`),
			"want one of keyPath"},
		{signed(`"keyPath":"/a","keyData":"aGVsbG8="`), "want one of keyPath, keyPaths, keyData and keyDatas"},
		{signed(`"keyPath":"/a","pki":{}`), "want one of keyPath"},
		{signed(`"keyPath":"a"`), "want the whole path"},
		{signed(`"keyPaths":[]`), "it is empty"},
		{signed(`"keyData":"?"`), "keyData: "},
		{signed(`"keyPath":"/a","KeyPath":"/b"`), `field "KeyPath" is not known`},
		{signed(`"keyPath":"/a","signedIdentity":{"type":"any"}`), `signedIdentity: type "any": want one of`},
		{signed(`"keyPath":"/a","signedIdentity":{"type":"exactReference","dockerReference":"a.example/b"}`),
			"want a tag"},
		{signed(`"keyPath":"/a","signedIdentity":{"type":"exactRepository","dockerRepository":"a.example/b:c"}`),
			"want neither"},
		{signed(`"keyPath":"/a","signedIdentity":{"type":"matchRepository","prefix":"a"}`),
			`field "prefix" is not known`},
		{signed(`"keyPath":"/a","signedIdentity":` +
			`{"type":"remapIdentity","prefix":"A b","signedPrefix":"a.example"}`), "prefix"},
	} {
		_, err := parse([]byte(x.policy))
		if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%s: %v, want %q", x.policy, err, x.want)
		}
	}
}

// of is an image of which no more is known than what it was asked for by.
func of(t testing.TB, ref source.Ref) (Subject, error) {
	return Of(t.Context(), ref, &source.Image{}, registry.Options{})
}

// The scopes of an image, the most specific first: those that containers-policy.json(5) has.
func TestScopes(t *testing.T) {
	for _, x := range []struct {
		ref  string
		want []string
	}{
		{"os", []string{"docker.io/library/os:latest", "docker.io/library/os", "docker.io/library", "docker.io",
			"*.io"}},
		{"a.b.example:5000/x/y/os:v1", []string{
			"a.b.example:5000/x/y/os:v1", "a.b.example:5000/x/y/os", "a.b.example:5000/x/y", "a.b.example:5000/x",
			"a.b.example:5000", "*.b.example", "*.example",
		}},
		{"localhost/os@sha256:" + strings.Repeat("0", 64), []string{
			"localhost/os@sha256:" + strings.Repeat("0", 64), "localhost/os", "localhost",
		}},
		// The tag is left out of what has a digest, as it is when the image is asked for.
		{"a.example/os:v1@sha256:" + strings.Repeat("0", 64), []string{
			"a.example/os@sha256:" + strings.Repeat("0", 64), "a.example/os", "a.example", "*.example",
		}},
	} {
		s, err := of(t, source.Ref{Kind: source.Registry, Name: x.ref})
		if err != nil || s.transport != "docker" || !slices.Equal(s.scopes, x.want) {
			t.Errorf("%s: %s %q, %v", x.ref, s.transport, s.scopes, err)
		}
	}
	dir := t.TempDir()
	s, err := of(t, source.Ref{Kind: source.OCILayout, Name: dir + ":v1"})
	if err != nil || s.transport != "oci" || s.scopes[0] != dir || s.scopes[len(s.scopes)-1] != "/tmp" {
		t.Errorf("%s %q, %v", s.transport, s.scopes, err)
	}
	p, err := parse([]byte(`{"default":[{"type":"reject"}],"transports":{
		"docker":{"":[{"type":"signedBy"}],"*.example":[{"type":"insecureAcceptAnything"}],
			"a.example/x":[{"type":"reject"}],"a.example/x/os":[{"type":"signedBy"}]},
		"oci":{"/srv":[{"type":"insecureAcceptAnything"}]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		"a.example/x/os:v1": "transports.docker a.example/x/os signedBy",
		"a.example/x/y:v1":  "transports.docker a.example/x reject",
		"a.example/xy:v1":   "transports.docker *.example insecureAcceptAnything",
		"a.other/x/os:v1":   "transports.docker signedBy",
	} {
		s, err := of(t, source.Ref{Kind: source.Registry, Name: ref})
		if err != nil {
			t.Fatal(err)
		}
		if scope, all := p.requirements(s); len(all) != 1 || scope+" "+all[0].kind != want {
			t.Errorf("%s: %s %+v, want %s", ref, scope, all, want)
		}
	}
	if scope, _ := p.requirements(Subject{transport: "iso", scopes: []string{"/srv/os.iso"}}); scope != "default" {
		t.Error(scope)
	}
}

// Which names a signature may be for: the table of containers-policy.json(5), "signedIdentity".
func TestIdentity(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("0", 64)
	for _, x := range []struct {
		identity, image, signed, want string
	}{
		{`"matchExact"`, "a.example/os:v1", "a.example/os:v1", ""},
		{`"matchExact"`, "a.example/os:v1", "a.example/os:v2", "it is for a.example/os:v2"},
		{`"matchExact"`, "a.example/os" + digest, "a.example/os:v1", "wants a.example/os@"},
		{`"matchExact"`, "a.example/os:v1", "a.example/os", "that is signedIdentity matchRepository"},
		{`"matchRepoDigestOrExact"`, "a.example/os:v1", "a.example/os:v1", ""},
		{`"matchRepoDigestOrExact"`, "a.example/os:v1", "a.example/os:v2", "it is for a.example/os:v2"},
		{`"matchRepoDigestOrExact"`, "a.example/os" + digest, "a.example/os:v2", ""},
		{`"matchRepoDigestOrExact"`, "a.example/os" + digest, "a.example/other:v2", "it is for a.example/other:v2"},
		{`"matchRepoDigestOrExact"`, "a.example/os" + digest, "a.example/os",
			"that is signedIdentity matchRepository"},
		{`"matchRepository"`, "a.example/os:v1", "a.example/os", ""},
		{`"matchRepository"`, "a.example/os:v1", "a.example/os:v2", ""},
		{`"matchRepository"`, "a.example/os:v1", "b.example/os:v1", "wants a.example/os"},
		{`"matchRepository"`, "", "a.example/os:v1", "exactRepository"},
		{`"exactReference","dockerReference":"a.example/os:v1"`, "m.example/os:v9", "a.example/os:v1", ""},
		{`"exactReference","dockerReference":"a.example/os:v1"`, "", "a.example/os:v2", "wants a.example/os:v1"},
		{`"exactRepository","dockerRepository":"a.example/os"`, "", "a.example/os", ""},
		{`"exactRepository","dockerRepository":"a.example/os"`, "a.example/x:v1", "a.example/x",
			"wants a.example/os"},
		{`"remapIdentity","prefix":"m.example/a","signedPrefix":"a.example"`, "m.example/a/os:v1", "a.example/os:v1",
			""},
		{`"remapIdentity","prefix":"m.example/a","signedPrefix":"a.example"`, "m.example/ab/os:v1",
			"a.exampleb/os:v1", "wants m.example/ab/os:v1"},
		{`"remapIdentity","prefix":"m.example/a","signedPrefix":"a.example"`, "m.example/a/os:v1",
			"m.example/a/os:v1", "wants a.example/os:v1"},
		{`"matchRepository"`, "a.example/os:v1", "A B", "no name of an image"},
	} {
		i, err := parseIdentity([]byte(`{"type":` + x.identity + `}`))
		if err != nil {
			t.Fatal(err)
		}
		var image reference.Named
		if x.image != "" {
			if image, err = reference.ParseNormalizedNamed(x.image); err != nil {
				t.Fatal(err)
			}
		}
		err = i.accepts(image, x.signed)
		if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%s, %s, signed for %s: %v, want %q", x.identity, x.image, x.signed, err, x.want)
		}
	}
}

// A policy that is read has requirements for each image, each of a type that is known.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"default":[{"type":"reject"}],"transports":{"docker":{"a.example/os":[{"type":"sigstoreSigned",` +
		`"keyPath":"/a","signedIdentity":{"type":"remapIdentity","prefix":"m.example/a",` +
		`"signedPrefix":"a.example"}}]}}}`))
	f.Add([]byte(`{"default":[{"type":"signedBy"}]}`))
	f.Add([]byte(`{"default":[{"type":"sigstoreSigned","fulcio":{"caData":"aGVsbG8=","oidcIssuer":"i",` +
		`"subjectEmail":"e"},"rekorPublicKeyPaths":["/r"]}]}`))
	image, err := of(f, source.Ref{Kind: source.Registry, Name: "a.example/os:v1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parse(b)
		if err != nil {
			return
		}
		scope, all := p.requirements(image)
		if scope == "" || len(all) == 0 {
			t.Errorf("%q: %d", scope, len(all))
		}
		for _, r := range all {
			switch {
			case r.kind == typeAccept, r.kind == typeReject, r.unsupported != "":
			case r.kind != typeSigstore || r.keys.empty() == (r.fulcio == nil) || r.identity.kind == "":
				t.Errorf("%+v", r)
			}
		}
	})
}
