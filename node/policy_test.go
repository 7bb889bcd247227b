package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image/policy"
	"github.com/kairos-buildkit/kairos/image/policy/policytest"
)

// policyText asks for cosign's signature by the key in /etc/cosign.pub, for the repository of the image.
const policyText = `{"default":[{"type":"sigstoreSigned","keyPath":"/etc/cosign.pub",` +
	`"signedIdentity":{"type":"matchRepository"}}]}`

// withFiles writes files into the root of the running system.
func withFiles(t *testing.T, m *Machine, files map[string]string) {
	t.Helper()
	for file, content := range files {
		file = m.path(file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A node with a policy takes the images that this accepts, and refuses all others before it fetches a layer.
func TestPolicy(t *testing.T) {
	a, b := large(t)
	key, stranger := policytest.NewKey(t), policytest.NewKey(t)
	reg, src, art := beside(t, install(t, t.TempDir(), "uefi", t.TempDir(), a), b)
	ref, err := name.ParseReference(src.Name)
	if err != nil {
		t.Fatal(err)
	}
	digest := ref.Context().Digest(art.Subject.Digest.String())
	other := ref.Context().Registry.Repo("other").Name()
	fresh := func(files map[string]string) *Machine {
		disk := t.TempDir()
		m := install(t, disk, "uefi", t.TempDir(), a)
		bootedFrom(t, m, disk)
		withFiles(t, m, files)
		return m
	}
	signed := map[string]string{policy.File: policyText, "etc/cosign.pub": string(key.Public)}
	refused := func(files map[string]string, want string) {
		t.Helper()
		refusesUpgrade(t, fresh(files), reg, src, want, false, true)
		for hex, n := range reg.blobs {
			if n > 4096 { // manifests, the config and signatures are smaller
				t.Errorf("%s: %d bytes of %s were fetched", want, n, hex)
			}
		}
	}
	refused(signed, "is not signed")
	policytest.Sign(t, digest, policytest.Claim(t, digest, ""), stranger)
	refused(signed, "it is none of /etc/cosign.pub")
	policytest.Sign(t, digest, policytest.Claim(t, digest, other), key)
	refused(signed, "it is for "+other)
	policytest.Sign(t, digest, policytest.Claim(t, ref.Context().Digest("sha256:"+strings.Repeat("0", 64)), ""), key)
	refused(signed, "it is for the digest")
	policytest.Sign(t, digest, policytest.Claim(t, digest, ""), key)
	refused(map[string]string{policy.File: `{}`}, "so that no image is accepted")
	refused(map[string]string{policy.File: `{"default":[{"type":"signedBy"}]}`}, "signedBy (GPG)")

	m := fresh(signed)
	o := UpgradeOptions{Source: src}
	check, err := m.CheckUpgrade(t.Context(), CheckOptions{UpgradeOptions: o})
	if err != nil || check.Outcome != api.OutcomeUpgrade || len(check.Accepted) != 1 || check.Fetch == 0 {
		t.Errorf("%+v, %v", check, err)
	}
	said := ""
	o.Progress = func(e Event) { said += e.Text }
	if r, err := m.Upgrade(t.Context(), o); err != nil || !r.Changed || r.Ranges != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	// The release beside the image is not what was signed.
	if !strings.Contains(said, "the image was accepted for its signature, and the policy /"+policy.File+
		" does not accept the release "+art.Manifest.Digest.String()) {
		t.Error(said)
	}
	s, err := m.Status()
	if err != nil || len(s.Active.Accepted) != 1 || s.Active.Accepted[0].Requirement != "sigstoreSigned" ||
		!strings.HasPrefix(s.Active.Accepted[0].Signers[0], "/etc/cosign.pub (sha256:") || s.Booted.Accepted != nil {
		t.Errorf("%+v, %v", s.Active, err)
	}
	// Signed itself, it is fetched by blocks.
	of := ref.Context().Digest(art.Manifest.Digest.String())
	policytest.Sign(t, of, policytest.Claim(t, of, ""), key)
	m = fresh(signed)
	o.Progress = nil
	check, err = m.CheckUpgrade(t.Context(), CheckOptions{UpgradeOptions: o})
	if err != nil || check.Ranges == 0 {
		t.Errorf("%+v, %v", check, err)
	}
	if r, err := m.Upgrade(t.Context(), o); err != nil || r.Ranges != check.Ranges {
		t.Errorf("%+v, %v", r, err)
	}
}

// A config cannot ask for less than the image's own policy, and may ask for more.
func TestPolicyOfImageAndConfig(t *testing.T) {
	a, b := large(t)
	key := policytest.NewKey(t)
	with := newImage(t, runtime.GOARCH, append(slices.Clone(a.layers), tarOf(t, map[string]string{
		policy.File: policyText, "etc/cosign.pub": string(key.Public),
	}))...)
	_, src, art := beside(t, install(t, t.TempDir(), "uefi", t.TempDir(), a), b)
	ref, err := name.ParseReference(src.Name)
	if err != nil {
		t.Fatal(err)
	}
	digest := ref.Context().Digest(art.Subject.Digest.String())
	disk := t.TempDir()
	m := install(t, disk, "uefi", t.TempDir(), with)
	bootedFrom(t, m, disk)
	accept := `{"default":[{"type":"insecureAcceptAnything"}]}`
	upgrade := func() error {
		_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: src})
		return err
	}
	wantRefused(t, upgrade(), "is not signed")
	medium := install(t, t.TempDir(), "uefi", t.TempDir(), with)
	medium.running = m.State
	_, err = medium.Upgrade(t.Context(), UpgradeOptions{Source: src})
	wantRefused(t, err, "is not signed")
	withFiles(t, m, map[string]string{policy.File: accept})
	wantRefused(t, upgrade(), "is not signed")
	policytest.Sign(t, digest, policytest.Claim(t, digest, ""), key)
	withFiles(t, m, map[string]string{policy.File: `{"default":[{"type":"reject"}]}`})
	wantRefused(t, upgrade(), "no image from there is accepted")
	withFiles(t, m, map[string]string{policy.File: accept})
	if err := upgrade(); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(acceptance(os.DirFS(m.State.Dir()), b.id))
	if err != nil || !strings.Contains(string(got), `"sigstoreSigned"`) || !strings.Contains(string(got),
		"AcceptAnything") {
		t.Errorf("%s, %v", got, err)
	}
}
