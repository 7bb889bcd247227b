package sealed_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/internal/initramfs/console"
	"github.com/kairos-buildkit/kairos/internal/initramfs/medium"
	"github.com/kairos-buildkit/kairos/internal/initramfs/sealed"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
	"github.com/kairos-buildkit/kairos/trust/trusttest"
	"github.com/kairos-buildkit/kairos/uki"
)

// genuine is an image that somebody with the key has published: its release, its UKI, and what its /init trusts.
type genuine struct {
	release layout.Release // with its signatures
	uki     []byte
	trust   []byte // trust.json of the initrd
}

// publish makes an image as the frontend does, and signs its release. floor is the lowest epoch that its /init takes.
func publish(t *testing.T, key sign.Key, version string, epoch, floor int64) genuine {
	t.Helper()
	tree := boottest.Tree("6.12.1")
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text), Mode: 0o644} }
	tree[layout.ImageTrustDir+"/release.pub"] = file(string(key.PEM()))
	tree[layout.ImageTrustPolicy] = file(fmt.Sprintf(`{"epoch": %d, "cmdline": ["my.site="]}`, floor))
	// The label is an image's own; here it has each image's UKI differ, as another kernel does.
	made, err := boot.Make(tree, boot.Options{Cmdline: "quiet build=" + version})
	if err != nil {
		t.Fatal(err)
	}
	sum, err := uki.Authenticode(made.UKI)
	if err != nil {
		t.Fatal(err)
	}
	r := layout.Release{
		Version: version, Config: layout.SHA256(sha256.Sum256([]byte(version))), Arch: runtime.GOARCH, Epoch: epoch,
		UKI: layout.SHA256(sum),
	}
	for i := range 3 {
		d := layout.SHA256(sha256.Sum256(fmt.Appendf(nil, "layer %d of %s", i, version)))
		r.Layers = append(r.Layers, layout.Layer{DiffID: d, Size: 4096, RootHash: d.Hex()})
	}
	r.Signatures = trusttest.Signed(t, r, key)
	return genuine{r, made.UKI, inInitrd(t, made.Initrd)}
}

// inInitrd returns trust.json as it stands in an initrd.
func inInitrd(t *testing.T, packed []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	cpio, err := d.DecodeAll(packed, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := bytes.Cut(cpio, []byte(layout.InitrdTrust+"\x00"))
	begin, end := bytes.IndexByte(after, '{'), bytes.Index(after, []byte("\n}\n"))
	if begin < 0 || end < begin {
		t.Fatal("the initrd has no trust.json")
	}
	return after[begin : end+3]
}

// sealOf reads an image's trust.json as its /init does.
func sealOf(t *testing.T, image genuine) *sealed.Seal {
	t.Helper()
	name := filepath.Join(t.TempDir(), "trust.json")
	if err := os.WriteFile(name, image.trust, 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := sealed.Read(name, &console.Log{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// starts does what /init does before it mounts a layer, on a disk where the entry of one release starts the UKI of an
// image and the store has a list for that release.
func starts(t *testing.T, running genuine, entry, id string, list layout.Release) error {
	t.Helper()
	store := t.TempDir()
	b, err := list.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		layout.ReleasePath(id): b, layout.ReleaseSignaturesPath(id): list.Signatures,
	} {
		name = filepath.Join(store, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	source := medium.Source{Device: "/dev/vda5", Store: store, Boot: layout.Boot{Release: id}}
	r, err := source.Release()
	if err != nil {
		return err
	}
	s := sealOf(t, running)
	if err := s.Release(r); err != nil {
		return err
	}
	volume, err := fat.FileSystem{
		Label: "COS_GRUB", Size: 40 << 20, Files: []filetree.File{filetree.Bytes("EFI/Linux/"+entry, running.uki)},
	}.Image()
	if err != nil {
		t.Fatal(err)
	}
	esp, err := os.Create(filepath.Join(t.TempDir(), "esp"))
	if err != nil {
		t.Fatal(err)
	}
	defer esp.Close()
	if err := volume.WriteTo(t.Context(), esp); err != nil {
		t.Fatal(err)
	}
	return s.UKI(esp, `\EFI\Linux\`+entry, r)
}

func wantRefusal(t *testing.T, what string, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("%s: %v, want %q", what, err, want)
	}
}

// Parts of genuine releases that do not belong together do not start, whichever part is exchanged; and a release that
// does starts by the floor of its own UKI, whatever newer ones ask for.
func TestGenuinePartsOfSeveralReleases(t *testing.T) {
	key := newKey(t)
	old, now := publish(t, key, "v1", 1, 1), publish(t, key, "v2", 2, 2)
	under := func(g genuine) string { return layout.OnTrial(7, g.release.ID()).String() }
	recovery := func(g genuine) string { return layout.Entry{ID: g.release.ID()}.String() }
	changed := func(g genuine, do func(*layout.Release)) layout.Release {
		r := g.release
		r.Layers = slices.Clone(r.Layers)
		do(&r)
		return r
	}
	for name, c := range map[string]struct {
		running genuine
		entry   string
		id      string
		list    layout.Release
		want    string // "": it starts
	}{
		"the old one":                  {old, under(old), old.release.ID(), old.release, ""},
		"the new one":                  {now, under(now), now.release.ID(), now.release, ""},
		"the old one as recovery":      {old, recovery(old), old.release.ID(), old.release, ""},
		"the old UKI, the new list":    {old, under(now), now.release.ID(), now.release, "and the one of release"},
		"the new UKI, the old list":    {now, under(old), old.release.ID(), old.release, "its epoch is 1, and 2"},
		"the new list as the old":      {old, under(old), old.release.ID(), now.release, "in its own file"},
		"the new recovery's, old list": {now, recovery(old), old.release.ID(), old.release, "its epoch is 1, and 2"},
		"the new list, renamed": {old, under(old), old.release.ID(), changed(now, func(r *layout.Release) {
			r.Config = old.release.Config
		}), "is not one of this release.json"},
		"the new epoch on the old list": {now, under(old), old.release.ID(), changed(old, func(r *layout.Release) {
			r.Epoch = 2
		}), "is not one of this release.json"},
		"the old UKI in the new list": {old, under(now), now.release.ID(), changed(now, func(r *layout.Release) {
			r.UKI = old.release.UKI
		}), "is not one of this release.json"},
		"the top layer dropped": {now, under(now), now.release.ID(), changed(now, func(r *layout.Release) {
			r.Layers = r.Layers[:2]
		}), "is not one of this release.json"},
		"layers reordered": {now, under(now), now.release.ID(), changed(now, func(r *layout.Release) {
			r.Layers[0], r.Layers[2] = r.Layers[2], r.Layers[0]
		}), "is not one of this release.json"},
		"an old layer on top": {now, under(now), now.release.ID(), changed(now, func(r *layout.Release) {
			r.Layers[2] = old.release.Layers[2]
		}), "is not one of this release.json"},
		"an old root": {now, under(now), now.release.ID(), changed(now, func(r *layout.Release) {
			r.Layers[1].RootHash = old.release.Layers[1].RootHash
		}), "is not one of this release.json"},
		"the old signatures": {now, under(now), now.release.ID(), changed(now, func(r *layout.Release) {
			r.Signatures = old.release.Signatures
		}), "is not one of this release.json"},
	} {
		wantRefusal(t, name, starts(t, c.running, c.entry, c.id, c.list), c.want)
	}
}

// signatures writes release.sig as an attacker does, who has no need of what we check when we write one.
func signatures(t *testing.T, all ...trust.Signature) []byte {
	t.Helper()
	b, err := json.MarshalIndent(map[string]any{"schema": 1, "signatures": all}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

// Two of three keys are two keys: one that signs twice, or under another's name, is one.
func TestThresholdCountsKeys(t *testing.T) {
	keys := []sign.Key{newKey(t), trusttest.Key(t, trust.Ed25519), newKey(t)}
	slices.SortFunc(keys, func(a, b sign.Key) int { return strings.Compare(string(a.ID), string(b.ID)) })
	stranger := newKey(t)
	a := trusttest.Anchor(2, keys...)
	r := release()
	other := r
	other.Version = "v2"
	by := func(k sign.Key, r layout.Release) trust.Signature {
		record, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		s, err := k.Sign(record)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	as := func(s trust.Signature, k sign.Key) trust.Signature {
		s.Key, s.Algorithm = k.ID, k.Algorithm
		return s
	}
	one, two, three := by(keys[0], r), by(keys[1], r), by(keys[2], r)
	const none = ": its signature is not one"
	sorted := func(s ...trust.Signature) trust.Signatures {
		trust.Signatures(s).Sort()
		return s
	}
	for name, c := range map[string]struct {
		all  trust.Signatures
		want string
	}{
		"two of three":               {sorted(one, three), ""},
		"the other two":              {sorted(two, three), ""},
		"all three":                  {sorted(one, two, three), ""},
		"one":                        {sorted(two), "1 of 2 signatures"},
		"one twice":                  {sorted(one, one), "two of one key"},
		"one, and as another":        {sorted(one, as(one, keys[1])), string(keys[1].ID) + none},
		"one, and as its likes":      {sorted(one, as(one, keys[2])), string(keys[2].ID) + none},
		"one and a stranger":         {sorted(one, by(stranger, r)), "1 of 2 signatures"},
		"one and a stranger's as it": {sorted(one, as(by(stranger, r), keys[2])), "1 of 2 signatures"},
		"one, and another release's": {sorted(one, by(keys[1], other)), "1 of 2 signatures"},
		"strangers alone":            {sorted(by(stranger, r), by(newKey(t), r)), "0 of 2 signatures"},
	} {
		r := r
		r.Signatures = signatures(t, c.all...)
		wantRefusal(t, name, read(t, a).Release(r), c.want)
	}
}

// A key of ours may sign other things, elsewhere: none of these signatures says anything of a release.
func TestSignatureForAnotherDomain(t *testing.T) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := sign.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	r := release()
	record, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	text, err := trust.Text(record)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(record)
	digest := layout.SHA256(sum)
	const none = "is not one of this release.json"
	instead := func(of, by string) string { return strings.Replace(string(text), of, by, 1) }
	for name, c := range map[string]struct {
		signed string
		want   string
	}{
		"a release":                  {string(text), ""},
		"the file itself":            {string(record), none},
		"its digest in bytes":        {string(sum[:]), none},
		"its digest in words":        {string(digest), none},
		"a line of its digest":       {string(digest) + "\n", none},
		"the text's digest":          {digestOf(text), none},
		"the text without its end":   {string(text[:len(text)-1]), none},
		"the text and more":          {string(text) + "\n", none},
		"another version":            {instead("version 1", "version 2"), none},
		"a config":                   {instead("release", "config"), none},
		"the image's config instead": {instead(string(digest), string(r.Config)), none},
	} {
		r.Signatures = signatures(t, trust.Signature{
			Key: key.ID, Algorithm: key.Algorithm, Signature: ed25519.Sign(private, []byte(c.signed)),
		})
		wantRefusal(t, name, read(t, anchor(nil, key)).Release(r), c.want)
	}
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return string(sum[:])
}

// What an image's own trust.json lets on the command line, wherever a word comes from: LoadOptions of a boot option,
// SMBIOS, an addon and a loader's entry all end up there, behind the image's own.
func TestWordsOfAnImage(t *testing.T) {
	s := sealOf(t, publish(t, newKey(t), "v1", 1, 1))
	const own = "quiet build=v1"
	var debug []string
	for i, p := range layout.Profiles() {
		words := layout.ParseCmdline(p.Words)
		if i+1 == layout.ProfileDebug {
			debug = words
			continue
		}
		line := layout.ParseCmdline(own + " my.site=berlin " + p.Words)
		if got, err := s.Cmdline(line, layout.FirmwareUEFI); err != nil || !slices.Equal(got, line) {
			t.Errorf("the profile %s: %q, %v", p.ID, got, err)
		}
	}
	if len(debug) < 3 {
		t.Fatalf("the words of the profile for debugging are %q", debug)
	}
	for _, word := range append(debug,
		"init=/bin/sh", "rdinit=/bin/sh", "init=", "kairos.esp=11111111-2222-3333-4444-555555555555",
		"kairos.release=0123456789ab", "kairos.role=recovery", "kairos.tries=1", "kairos.live=1", "kairos.reset=1",
		"kairos.install=yes", "kairos.config_url=https://evil.example/", "my.site", "my.sit=x", "my.site2=x",
		"systemd.debug_shell", "systemd.unit=rescue.target", "systemd.run=/bin/sh", "single", "rescue", "1", "-b",
		"--", "-- init=/bin/sh", "rd.break", "efi=noruntime", "module_blacklist=dm_verity", "loglevel=8",
		"QUIET", "quiet=1", "build=v2", "build=", `"quiet"`, `"quiet init=/bin/sh"`, `build="v1"`,
		"modprobe.blacklist=erofs", "initrd=\\evil", "BOOT_IMAGE=/x", "\x00", "quiet\u00a0init=/bin/sh",
		"quiet\vinit=/bin/sh",
	) {
		for _, line := range []string{own + " " + word, word + " " + own} {
			got, err := s.Cmdline(layout.ParseCmdline(line), layout.FirmwareUEFI)
			if err == nil || !strings.Contains(err.Error(), "words that the image does not allow") {
				t.Errorf("%q: %v", word, err)
			}
			if got.String() != own && !strings.HasPrefix(word, "-- ") {
				t.Errorf("%q: obeyed: %q", word, got)
			}
		}
	}
}

// A word that may have any value hides no second one in it: the kernel, systemd and /init part a line at quotes and
// other spaces each in its own way.
func TestValuesHideNoWord(t *testing.T) {
	s := sealOf(t, publish(t, newKey(t), "v1", 1, 1))
	for _, word := range []string{
		`my.site='"' systemd.debug_shell my.site='"'`, "my.site=x\u00a0init=/bin/sh", "my.site=x\xa0init=/bin/sh",
		"my.site=x\vinit=/bin/sh", "my.site=x\finit=/bin/sh", `my.site="x init=/bin/sh"`,
		`my.site=\" systemd.run=x \"`, "my.site='x", `my.site="x`, "my.site=x\x00init=/bin/sh",
	} {
		got, err := s.Cmdline(layout.ParseCmdline("quiet build=v1 "+word), layout.FirmwareUEFI)
		if err == nil || strings.Contains(got.String(), "my.site") {
			t.Errorf("%q: obeyed %q, %v", word, got, err)
		}
	}
	const url = "my.site=https://x.example/a?b=c&d=%20#e"
	if _, err := s.Cmdline(layout.ParseCmdline("quiet build=v1 "+url), layout.FirmwareUEFI); err != nil {
		t.Error(err)
	}
}
