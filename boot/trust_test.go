package boot

import (
	"bytes"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"

	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/trusttest"
)

// cpio unpacks an initrd.
func cpio(t *testing.T, packed []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b, err := d.DecodeAll(packed, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// inInitrd returns trust.json as it stands in an initrd, "" where there is none.
func inInitrd(t *testing.T, packed []byte) string {
	t.Helper()
	_, after, ok := bytes.Cut(cpio(t, packed), []byte(layout.InitrdTrust+"\x00"))
	if !ok {
		return ""
	}
	begin, end := bytes.IndexByte(after, '{'), bytes.Index(after, []byte("\n}\n"))
	return string(after[begin : end+3])
}

// The keys of an image are in its initrd, and nothing is where there are none.
func TestTrustIsInTheInitrd(t *testing.T) {
	plain := boottest.Tree("6.12.1")
	before := install(t, plain, Options{})
	if got := inInitrd(t, before.Initrd); got != "" || bytes.Contains(before.Manifest.Marshal(), []byte("trust")) {
		t.Errorf("an image without keys has %q, %s", got, before.Manifest.Marshal())
	}
	ed, ec := trusttest.Key(t, trust.Ed25519), trusttest.Key(t, trust.ECDSA)
	sealed := func(more map[string]string) fstest.MapFS {
		tree := boottest.Tree("6.12.1")
		tree[layout.ImageTrustDir+"/a.pub"] = file(string(ed.PEM()))
		tree[layout.ImageTrustDir+"/b.pub"] = file(string(ec.PEM()))
		for name, text := range more {
			tree[layout.ImageTrustDir+"/"+name] = file(text)
		}
		return tree
	}
	policy := map[string]string{"policy.json": `{"threshold": 2, "epoch": 3, "cmdline": ["my.site="]}`}
	quiet := Options{Cmdline: "quiet"}
	one, two := install(t, sealed(policy), quiet), install(t, sealed(policy), quiet)
	if !bytes.Equal(one.UKI, two.UKI) || !bytes.Equal(one.Initrd, two.Initrd) {
		t.Error("equal keys, other boot files")
	}
	a, err := trust.ParseAnchor([]byte(inInitrd(t, one.Initrd)))
	if err != nil {
		t.Fatal(err)
	}
	if a.Threshold != 2 || a.Epoch != 3 || a.Warn || len(a.Keys) != 2 ||
		a.Keys[0].ID != min(ed.ID, ec.ID) || a.Keys[1].ID != max(ed.ID, ec.ID) {
		t.Errorf("%+v", a)
	}
	allowed, refused := a.Words(layout.ParseCmdline(
		one.Cmdline + " my.site=x kairos.live kairos.debug init=/bin/sh my.site kairos.esp=x QUIET"))
	if want := one.Cmdline + " my.site=x kairos.live"; allowed.String() != want {
		t.Errorf("allowed %q, want %q", allowed, want)
	}
	if want := "kairos.debug init=/bin/sh my.site kairos.esp=x QUIET"; refused.String() != want {
		t.Errorf("refused %q, want %q", refused, want)
	}
	for name, c := range map[string]struct {
		policy, label string
		warn          bool
	}{
		"required":              {``, "", false},
		"the policy warns":      {`{"mode": "warn"}`, "", true},
		"the label warns":       {``, layout.TrustWarn, true},
		"the label is stricter": {`{"mode": "warn"}`, layout.TrustRequired, false},
	} {
		more := map[string]string{}
		if c.policy != "" {
			more["policy.json"] = c.policy
		}
		a, err := Trust(sealed(more), Options{Trust: c.label})
		if err != nil || a.Warn != c.warn || a.Threshold != 1 {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
	// Who asks for what the TPM holds has its drivers in the initrd, and nobody else has.
	withTPM := func(policy string) bool {
		tree := sealed(map[string]string{"policy.json": policy})
		dir := "usr/lib/modules/6.12.1/"
		for _, m := range layout.TPMModules() {
			name := "kernel/drivers/char/tpm/" + m + ".ko"
			tree[dir+name] = file("\x7fELF " + m)
			tree[dir+"modules.dep"] = file(string(tree[dir+"modules.dep"].Data) + name + ":\n")
		}
		made := install(t, tree, Options{})
		a, err := trust.ParseAnchor([]byte(inInitrd(t, made.Initrd)))
		if err != nil {
			t.Fatal(err)
		}
		text := cpio(t, made.Initrd)
		for _, m := range layout.TPMModules() {
			if bytes.Contains(text, []byte("\x7fELF "+m)) != a.TPM {
				t.Errorf("%s: the module %s", policy, m)
			}
		}
		return a.TPM
	}
	if withTPM(`{}`) || withTPM(`{"tpm": false}`) || !withTPM(`{"tpm": true}`) {
		t.Error("the policy's word is not trust.json's")
	}
	// Boot files with other keys do not fit.
	tree := sealed(nil)
	install(t, tree, Options{})
	if fits, why, err := Check(tree, Options{}); !fits || err != nil {
		t.Errorf("%s, %v", why, err)
	}
	delete(tree, layout.ImageTrustDir+"/b.pub")
	if fits, why, err := Check(tree, Options{}); fits || err != nil || !strings.Contains(why, layout.ImageTrustDir) {
		t.Errorf("a key less: %v %s, %v", fits, why, err)
	}
}

// An image that is derived from one whose /init checks no signatures gets no keys in silence.
func TestTrustNeedsAnInitThatReadsIt(t *testing.T) {
	tree := boottest.Tree("6.12.1")
	tree[layout.ImageTrustDir+"/a.pub"] = file(string(trusttest.Key(t, trust.Ed25519).PEM()))
	tree[layout.ImageInit] = file("\x7fELF an older /init")
	if _, err := Make(tree, Options{}); err == nil || !strings.Contains(err.Error(), "checks no signatures") {
		t.Error(err)
	}
	tree[layout.ImageInit] = file("\x7fELF a later one with " + layout.InitrdTrust)
	if _, err := Make(tree, Options{}); err != nil {
		t.Error(err)
	}
	tree[layout.ImageTrustPolicy] = file(`{"tpm": true}`)
	if _, err := Make(tree, Options{}); err == nil || !strings.Contains(err.Error(), "does not read it") {
		t.Error(err)
	}
}

// A file in the folder that is not read is an error: somebody believes that it counts.
func TestBrokenTrust(t *testing.T) {
	key := string(trusttest.Key(t, trust.Ed25519).PEM())
	private, err := trusttest.Key(t, trust.Ed25519).PrivatePEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"broken":         {map[string]string{"a.pub": key[:60]}, "trust.d/a.pub"},
		"private":        {map[string]string{"a.pub": string(private)}, "trust.d/a.pub"},
		"another name":   {map[string]string{"a.pub": key, "b.pem": key}, "trust.d/b.pem"},
		"twice":          {map[string]string{"a.pub": key, "b.pub": key}, "trust.d/b.pub: it is the same key"},
		"no key":         {map[string]string{"policy.json": "{}"}, "0 keys"},
		"policy":         {map[string]string{"a.pub": key, "policy.json": "{"}, "trust.d/policy.json"},
		"policy's field": {map[string]string{"a.pub": key, "policy.json": `{"epocj": 3}`}, "epocj"},
		"threshold":      {map[string]string{"a.pub": key, "policy.json": `{"threshold": 2}`}, "threshold 2"},
		"none needed":    {map[string]string{"a.pub": key, "policy.json": `{"threshold": 0}`}, "threshold 0"},
		"mode":           {map[string]string{"a.pub": key, "policy.json": `{"mode": "off"}`}, `"off"`},
		"a word":         {map[string]string{"a.pub": key, "policy.json": `{"cmdline": ["a b"]}`}, `"a b"`},
	} {
		tree := boottest.Tree("6.12.1")
		for file, text := range c.files {
			tree[layout.ImageTrustDir+"/"+file] = &fstest.MapFile{Data: []byte(text)}
		}
		if _, err := Make(tree, Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
