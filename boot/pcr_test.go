package boot

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
	"github.com/kairos-buildkit/kairos/uki"
	"github.com/kairos-buildkit/kairos/uki/pcr"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// measuredTree is the tree of a sealed image with a public key for TPMs, which is that of an owner's certificate.
func measuredTree(t *testing.T, o owner) fstest.MapFS {
	t.Helper()
	key, err := secureboot.ParseKey(o.key)
	if err != nil {
		t.Fatal(err)
	}
	tree := sealedTree(t)
	tree[layout.ImagePCRKey] = file(string(pcr.MarshalPublic(&key.PublicKey)))
	return tree
}

// trusted is a key that signs releases.
var trusted = sync.OnceValues(func() (sign.Key, error) { return sign.NewKey(trust.Ed25519) })

// sealedTree is the tree of an image that trusts a key.
func sealedTree(t *testing.T) fstest.MapFS {
	t.Helper()
	key, err := trusted()
	if err != nil {
		t.Fatal(err)
	}
	tree := boottest.Tree("6.12.1")
	tree[layout.ImageTrustDir+"/a.pub"] = file(string(key.PEM()))
	return tree
}

// The UKI has signatures for what a TPM measures of it, by system and recovery system alone; nobody makes others
// without the key; and without a public key there are none.
func TestPolicies(t *testing.T) {
	ours, stranger := twoOwners(t)
	tree := measuredTree(t, ours)
	if _, err := Make(tree, Options{}); !errors.Is(err, ErrNoPCRKey) {
		t.Errorf("without the key: %v", err)
	}
	one := install(t, tree, Options{PCRKey: ours.key})
	again, err := Make(measuredTree(t, ours), Options{PCRKey: ours.key})
	if err != nil || !bytes.Equal(again.UKI, one.UKI) {
		t.Error("the same key has signed other bytes", err)
	}
	if fits, why, err := Check(tree, Options{}); !fits || err != nil {
		t.Error(why, err)
	}
	if kept, err := Make(tree, Options{}); err != nil || !bytes.Equal(kept.UKI, one.UKI) {
		t.Error("the signatures were not kept", err)
	}

	sections, err := uki.Sections(one.UKI)
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) int {
		return slices.IndexFunc(sections, func(s uki.Section) bool { return s.Name == name })
	}
	profile := at(uki.Profile)
	if at(uki.PCRSignatures) > profile || at(uki.PCRKey) > profile || at(uki.PCRKey) < 0 {
		t.Fatal("the sections are not those of all profiles")
	}
	if want := tree[layout.ImagePCRKey].Data; !bytes.Equal(sections[at(uki.PCRKey)].Data, want) {
		t.Errorf("the public key is %s", sections[at(uki.PCRKey)].Data)
	}
	signatures, err := pcr.Parse(sections[at(uki.PCRSignatures)].Data)
	if err != nil || len(signatures) != 2 {
		t.Fatalf("%d signatures, %v", len(signatures), err)
	}
	has := func(v pcr.Value) bool {
		return slices.ContainsFunc(signatures, func(s pcr.Signature) bool { return s.Policy == v.Policy() })
	}
	for number := range len(layout.Profiles()) + 1 {
		started, err := pcr.Started(sections, number)
		if err != nil {
			t.Fatal(err)
		}
		if has(started) {
			t.Errorf("profile %d unlocks before /init has said what it starts", number)
		}
		for role, unlocks := range map[string]bool{
			layout.RoleSystem: true, layout.RoleRecovery: true, layout.RoleLive: false, "": false,
		} {
			if got := has(started.Extend([]byte(layout.PCRWord(role)))); got != (unlocks && number == 0) {
				t.Errorf("profile %d, role %q: unlocks: %v", number, role, got)
			}
		}
	}

	// Where the image has none, all is as it was.
	plain := sealedTree(t)
	without, err := Make(plain, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{uki.PCRKey, uki.PCRSignatures} {
		if b, err := uki.ReadSection(bytes.NewReader(without.UKI), name, 1<<20); err == nil {
			t.Errorf("an image without a key has a section %s: %s", name, b)
		}
	}
	if b := without.Manifest.Marshal(); bytes.Contains(b, []byte("pcr")) {
		t.Errorf("its manifest speaks of one:\n%s", b)
	}

	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(curve)
	if err != nil {
		t.Fatal(err)
	}
	unsealed := boottest.Tree("6.12.1")
	unsealed[layout.ImagePCRKey] = tree[layout.ImagePCRKey]
	other := measuredTree(t, ours)
	other[layout.ImagePCRKey] = file("nonsense")
	older := measuredTree(t, ours)
	older[layout.ImageInit] = file("\x7fELF /init with " + layout.InitrdTrust)
	changed := measuredTree(t, stranger)
	for name, f := range tree {
		if changed[name] == nil {
			changed[name] = f
		}
	}
	noRSA := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	good := func() fstest.MapFS { return measuredTree(t, ours) }
	for name, c := range map[string]struct {
		tree fstest.MapFS
		o    Options
		is   error
		want string
	}{
		"another's key":      {good(), Options{PCRKey: stranger.key}, nil, "not the one of /usr/lib/kairos/pcr.pub"},
		"no PEM":             {good(), Options{PCRKey: []byte("x")}, nil, "pcr-key: the private key is not PEM"},
		"no RSA":             {good(), Options{PCRKey: noRSA}, nil, "not RSA"},
		"no public key":      {sealedTree(t), Options{PCRKey: ours.key}, nil, "copy it to /usr/lib/kairos/pcr.pub"},
		"nonsense for one":   {other, Options{PCRKey: ours.key}, nil, "/usr/lib/kairos/pcr.pub: public key"},
		"nobody signs":       {unsealed, Options{PCRKey: ours.key}, nil, "have releases signed"},
		"an older /init":     {older, Options{PCRKey: ours.key}, nil, "build its base image again"},
		"another public key": {changed, Options{}, ErrNoPCRKey, ""},
		"other words":        {tree, Options{Cmdline: "quiet"}, ErrNoPCRKey, "--secret id=pcr-key"},
	} {
		made, err := Make(c.tree, c.o)
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v", name, made != nil, err)
		}
	}
	if fits, why, err := Check(changed, Options{}); fits || err != nil || !strings.Contains(why, "pcr.pub") {
		t.Errorf("with another public key it fits: %v, %q, %v", fits, why, err)
	}
}

// Who needs the TPM at a boot has its drivers in the initrd.
func TestPoliciesHaveDrivers(t *testing.T) {
	ours, _ := twoOwners(t)
	tree := measuredTree(t, ours)
	dir := "usr/lib/modules/6.12.1/"
	for _, m := range layout.TPMModules() {
		name := "kernel/drivers/char/tpm/" + m + ".ko"
		tree[dir+name] = file("\x7fELF " + m)
		tree[dir+"modules.dep"] = file(string(tree[dir+"modules.dep"].Data) + name + ":\n")
	}
	text := cpio(t, install(t, tree, Options{PCRKey: ours.key}).Initrd)
	for _, m := range layout.TPMModules() {
		if !bytes.Contains(text, []byte("\x7fELF "+m)) {
			t.Errorf("the module %s is missing", m)
		}
	}
}
