package layout

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const (
	hexA    = "8f1c0a6bd4f3a7d2c19e5b0f7a6c3d2e1f00112233445566778899aabbccddee"
	hexB    = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	digestA = Digest("sha256:" + hexA)
	digestB = Digest("sha256:" + hexB)
)

func sample() Release {
	return Release{
		Version: "v1.2.3", Config: digestA, Manifest: digestB, Epoch: 3, Arch: "amd64",
		Format: Format{"zstd", 0, 3}, UKI: digestA,
		Layers: []Layer{{DiffID: digestB, Size: 8192, RootHash: hexA}},
	}
}

func TestPathsAreContainerdsLayerContentCache(t *testing.T) {
	want := "blobs/sha256/01/" + hexB + ".erofs"
	if got := BlobPath(digestB); got != want {
		t.Errorf("BlobPath = %s, want %s", got, want)
	}
	if got := SidecarPath(digestB); got != want+".dmverity" {
		t.Errorf("SidecarPath = %s, want %s.dmverity", got, want)
	}
}

func TestParseDigestRejects(t *testing.T) {
	for _, s := range []string{
		"", "sha256:", hexA, "sha512:" + hexA, "sha256:" + strings.ToUpper(hexA), "sha256:" + hexA + "0",
		"sha256:../" + hexA[3:],
	} {
		if _, err := ParseDigest(s); err == nil {
			t.Errorf("ParseDigest(%q) accepted", s)
		}
	}
	if _, err := ParseDigest(string(digestA)); err != nil {
		t.Error(err)
	}
}

func TestReleaseHasOneEncoding(t *testing.T) {
	b, err := sample().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRelease(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sample(), got); d != "" {
		t.Error(d)
	}
	if got.ID() != hexA[:12] {
		t.Errorf("ID = %s", got.ID())
	}
	for name, bad := range map[string]string{
		"compact":          strings.ReplaceAll(string(b), "\n", ""),
		"trailing data":    string(b) + "{}",
		"trailing newline": string(b) + "\n",
		"unknown field":    strings.Replace(string(b), `"arch"`, `"extra": 1, "arch"`, 1),
		"repeated field":   strings.Replace(string(b), `"arch"`, `"arch": "arm64", "arch"`, 1),
		"short root hash":  strings.Replace(string(b), `"rootHash": "8`, `"rootHash": "`, 1),
		"odd size":         strings.Replace(string(b), "8192", "8191", 1),
		"truncated":        string(b[:len(b)/2]),
		"empty":            "",
		"huge":             strings.Repeat(" ", MaxReleaseSize+1),
	} {
		if _, err := ParseRelease([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestReleaseRefusesWhatCannotBoot(t *testing.T) {
	for name, change := range map[string]func(*Release){
		"no layers":         func(r *Release) { r.Layers = nil },
		"no arch":           func(r *Release) { r.Arch = "" },
		"config not sha256": func(r *Release) { r.Config = "sha512:" + hexA },
		"diffID escapes":    func(r *Release) { r.Layers[0].DiffID = "sha256:../../etc" },
		"terminal escapes":  func(r *Release) { r.Version = "\x1b[2J" },
	} {
		r := sample()
		change(&r)
		if _, err := r.Marshal(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestEntryNames(t *testing.T) {
	id := hexA[:12]
	for name, want := range map[string]Entry{
		"kairos-00000007-" + id + "+3-0.efi":  {Seq: 7, ID: id, Counted: true, Left: 3},
		"kairos-00000007-" + id + "+0-3.efi":  {Seq: 7, ID: id, Counted: true, Done: 3},
		"kairos-00000007-" + id + "+9-0.efi":  Blessed(7, id),
		"kairos-00000007-" + id + "+0-9.efi":  {Seq: 7, ID: id, Counted: true, Done: 9},
		"kairos-00000007-" + id + "+0-10.efi": {Seq: 7, ID: id, Counted: true, Done: 10},
		"kairos-00000007-" + id + ".efi":      {Seq: 7, ID: id},
		"kairos-00000000-" + id + ".efi":      {ID: id},
	} {
		got, err := ParseEntry(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got != want {
			t.Errorf("%s = %+v, want %+v", name, got, want)
		}
		if got.String() != name {
			t.Errorf("%s formats as %s", name, got)
		}
	}
	for _, name := range []string{
		"", "kairos-.efi", "kairos-7-" + id + ".efi", "kairos-00000007-" + id + "+3.efi", "kairos-00000007-" + id +
			"+10-0.efi", "kairos-00000007-" + id + "+0-09.efi", "kairos-00000007-" + id + "+0-100.efi",
		"kairos-00000007-" + id + "+.efi", "kairos-00000007-" + id[:11] + ".efi", "KAIROS-00000007-" + id + ".efi",
		"kairos-+0000007-" + id + ".efi",
		"kairos-00000007-" + id + "+3-0.efi.tmp", "kairos-00000007-" + id,
	} {
		if e, err := ParseEntry(name); err == nil {
			t.Errorf("ParseEntry(%q) = %+v, want an error", name, e)
		}
	}
}

// The sum of a counter says whether the release is on trial: at each try that the loader takes off.
func TestTrialAndBlessedAreToldApart(t *testing.T) {
	for _, start := range []Entry{OnTrial(1, hexA[:12]), Blessed(1, hexA[:12])} {
		for e := start; ; e.Left, e.Done = e.Left-1, e.Done+1 {
			got, err := ParseEntry(e.String())
			if err != nil || got.Blessed() != start.Blessed() || got.Bad() != (e.Left == 0) ||
				len(e.String()) != len(start.String()) {
				t.Errorf("%s: %+v, %v", e, got, err)
			}
			if e.Left == 0 {
				break
			}
		}
	}
	if !(Entry{Seq: 1, ID: hexA[:12]}).Blessed() {
		t.Error("an entry without a counter is not blessed")
	}
}

// The loader orders entries by name, so a later activation has to sort after an earlier one.
func TestEntriesSortBySequence(t *testing.T) {
	id := hexA[:12]
	older, newer := Entry{Seq: 9, ID: id, Counted: true, Left: 3}.String(), Entry{Seq: 10, ID: id}.String()
	if older >= newer {
		t.Errorf("%s does not sort before %s", older, newer)
	}
}

func TestSidecar(t *testing.T) {
	s := Sidecar{RootHash: hexA, HashOffset: 4096}
	if got := string(s.Marshal()); got != `{"roothash":"`+hexA+`","hashoffset":4096}` {
		t.Errorf("sidecar = %s", got)
	}
	got, err := ParseSidecar(s.Marshal())
	if err != nil || got != s {
		t.Errorf("ParseSidecar = %+v, %v", got, err)
	}
	for _, bad := range []string{
		"", "{}", `{"roothash":"00","hashoffset":4096}`, `{"roothash":"` + hexA + `","hashoffset":1}`,
		`{"roothash":"` + hexA + `","hashoffset":-4096}`,
	} {
		if _, err := ParseSidecar([]byte(bad)); err == nil {
			t.Errorf("ParseSidecar(%q) accepted", bad)
		}
	}
}

func TestCmdline(t *testing.T) {
	c := ParseCmdline("  console=ttyS0 console=tty0\tquiet \"kairos.x=a b\" kairos.y=\"c d\" kairos.live\n")
	for key, want := range map[string]string{
		"console":     "tty0",
		"quiet":       "",
		"kairos.x":    "a b",
		"kairos.y":    "c d",
		"kairos.live": "",
	} {
		if got, ok := c.Get(key); !ok || got != want {
			t.Errorf("Get(%s) = %q, %v; want %q", key, got, ok, want)
		}
	}
	if _, ok := c.Get("kairos"); ok {
		t.Error("Get(kairos) found a word that is not there")
	}
	if got := ParseCmdline(c.String()); cmp.Diff(c, got) != "" {
		t.Errorf("round trip: %q", got)
	}
}

func FuzzSidecar(f *testing.F) {
	f.Add(Sidecar{RootHash: hexA, HashOffset: 4096}.Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSidecar(b)
		if err != nil {
			return
		}
		if again, err := ParseSidecar(s.Marshal()); err != nil || again != s {
			t.Errorf("%+v is read again as %+v (%v)", s, again, err)
		}
	})
}

func FuzzParseEntry(f *testing.F) {
	f.Add("kairos-00000007-8f1c0a6bd4f3+3-0.efi")
	f.Add("kairos-00000000-8f1c0a6bd4f3.efi")
	f.Fuzz(func(t *testing.T, name string) {
		if e, err := ParseEntry(name); err == nil && e.String() != name {
			t.Errorf("%q parses, but formats as %q", name, e)
		}
	})
}

func FuzzParseRelease(f *testing.F) {
	for _, r := range []Release{sample(), sample().AsV1()} {
		b, _ := r.Marshal()
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRelease(b)
		if err != nil {
			return
		}
		again, err := r.Marshal()
		if err != nil || string(again) != string(b) {
			t.Errorf("%q parses, but formats as %q (%v)", b, again, err)
		}
	})
}

func FuzzParseCmdline(f *testing.F) {
	f.Add(`a "b c" d=" e "`)
	f.Fuzz(func(t *testing.T, s string) {
		c := ParseCmdline(s)
		if strings.Count(s, `"`)%2 == 0 && cmp.Diff(c, ParseCmdline(c.String())) != "" {
			t.Errorf("%q: %q then %q", s, c, ParseCmdline(c.String()))
		}
	})
}

func TestGrubEnv(t *testing.T) {
	id := hexA[:12]
	for _, want := range []GrubState{
		{},
		{Recovery: id},
		{Entries: []Entry{
			{Seq: 7, ID: id, Counted: true, Left: 3},
			{Seq: 6, ID: hexB[:12]},
			{Seq: 5, ID: id, Counted: true, Done: 3},
		}, Recovery: id, Next: "recovery"},
		{Entries: []Entry{Blessed(7, id), {Seq: 6, ID: hexB[:12], Counted: true, Left: 1, Done: 8}, OnTrial(5, id)},
			Recovery: id, Stuck: grubStuck},
		{Recovery: id, Trial: RecoveryOnTrial(hexB[:12]), Next: "trial"},
		{Recovery: id, Trial: Entry{ID: hexB[:12], Counted: true, Done: 1}},
		{Recovery: id, Trial: Blessed(RecoverySeq, hexB[:12])},
		{Entries: []Entry{Blessed(7, id), Blessed(6, id), Blessed(5, id)}, Recovery: id, Stuck: grubStuck,
			Trial: Blessed(RecoverySeq, hexB[:12]), Next: "recovery"},
	} {
		b, err := want.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if len(b) != grubEnvSize {
			t.Errorf("%d bytes", len(b))
		}
		got, err := ParseGrubEnv(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
	for name, bad := range map[string]string{
		"empty":     "",
		"short id":  grubSignature + "id1=abc\nseq1=00000001\n",
		"no seq":    grubSignature + "id1=" + id + "\n",
		"tries":     grubSignature + "id1=" + id + "\nseq1=00000001\nleft1=x\n",
		"recovery":  grubSignature + "recovery=../..\n",
		"next":      grubSignature + "next=9\n",
		"many left": grubSignature + "id1=" + id + "\nseq1=00000001\nleft1=9\n",
		"given":     grubSignature + "id1=" + id + "\nseq1=00000001\nleft1=1\nof1=5\n",
		"stuck":     grubSignature + "stuck=7\n",
		"no tries":  grubSignature + "trial=" + id + "\n",
		"two tries": grubSignature + "trial=" + id + "\ntrialleft=2\n",
		"trial's":   grubSignature + "trial=" + id + "\ntrialleft=2\ntrialof=3\n",
		"trial":     grubSignature + "trial=..\ntrialleft=1\n",
	} {
		if _, err := ParseGrubEnv([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := (GrubState{Entries: make([]Entry, GrubSlots+1)}).Marshal(); err == nil {
		t.Error("four entries accepted")
	}
}

func FuzzParseGrubEnv(f *testing.F) {
	b, _ := GrubState{Entries: []Entry{{Seq: 7, ID: hexA[:12], Counted: true, Left: 3}}, Recovery: hexB[:12]}.Marshal()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseGrubEnv(b)
		if err != nil {
			return
		}
		again, err := s.Marshal()
		if err != nil {
			t.Fatalf("%q parses, but: %v", b, err)
		}
		if got, err := ParseGrubEnv(again); err != nil || cmp.Diff(s, got) != "" {
			t.Errorf("%+v formats as %q, which parses as %+v, %v", s, again, got, err)
		}
	})
}

func TestBoot(t *testing.T) {
	want := Boot{
		Release:  hexA[:12],
		Role:     RoleSystem,
		Firmware: "uefi",
		Entry:    "x",
		Trial:    true,
		Deadline: 600,
		Devices:  map[string]string{"efi": "/dev/vda2"},
	}
	got, err := ParseBoot(want.Marshal())
	if err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := ParseBoot([]byte("no")); err == nil {
		t.Error("accepted no JSON")
	}
}

func TestReleaseKeepsItsImagesSettings(t *testing.T) {
	r := sample()
	r.Labels = ReleaseLabels(
		map[string]string{ImageLabelCmdline: "quiet \"a\"\n<&>", "org.example": "x", ImageLabelVersion: "v1"},
	)
	if len(r.Labels) != 2 {
		t.Errorf("labels %v", r.Labels)
	}
	b, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRelease(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(r, got); d != "" {
		t.Error(d)
	}
	if ReleaseLabels(nil) != nil {
		t.Error("labels out of none")
	}
}

func TestMounts(t *testing.T) {
	want := Mounts{Bind: []string{"/var/lib/foo"}, Ephemeral: []string{"/var/tmp/x"}}
	got, err := ParseMounts(want.Marshal())
	if err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, p := range []string{"", "/", "var", "/var/", "/usr", "/a/../usr", "/dev"} {
		if (Mounts{Bind: []string{p}}).Check() == nil {
			t.Errorf("%q accepted", p)
		}
	}
	if n := StateName("/var/lib/rancher"); n != "var-lib-rancher.bind" {
		t.Error(n)
	}
	for _, p := range append(PersistentPaths(), MountPersistent, MountPersistent+"/bin") {
		if err := (Mounts{Bind: []string{p}}).Check(); err != nil {
			t.Error(err)
		}
	}
}

// GRUB understands the configuration.
func TestGrubDiskConfigIsAScript(t *testing.T) {
	c := exec.Command("grub-script-check")
	c.Stdin = bytes.NewReader(GrubDiskConfig())
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("grub-script-check (package grub-common): %v\n%s", err, out)
	}
}

// What a config mounts hides no program of a release, is no overlay option, and shares no folder.
func TestMountsThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		paths []string
		want  string
	}{
		{[]string{"/usr/bin"}, "/usr belongs to the release"},
		{[]string{"/usr/libexec"}, "/usr belongs to the release"},
		{[]string{"/lib/modules"}, "/lib belongs"}, {[]string{"/run/x"}, "/run belongs"},
		{[]string{"/oem"}, "/oem belongs"},
		{[]string{"/srv/a:b"}, "want one without"}, {[]string{"/srv/a,b"}, "want one without"},
		{[]string{`/srv/a\b`}, "want one without"},
		{[]string{"/srv/a-b", "/srv/a/b"}, "the same name"}, {[]string{"/etc-ssh"}, "the same name"},
		{[]string{"/usr-local/bin"}, "the same name"}, {[]string{"/srv/x\n"}, "want one without"},
	} {
		usable, errs := Mounts{Bind: append([]string{"/srv/good"}, c.paths...)}.Usable()
		if len(errs) != 1 || !strings.Contains(errs[0].Error(), c.want) {
			t.Errorf("%q: %v, want %s", c.paths, errs, c.want)
		}
		if want := append([]string{"/srv/good"}, c.paths[:len(c.paths)-1]...); cmp.Diff(want, usable.Bind) != "" {
			t.Errorf("%q: %q is usable", c.paths, usable.Bind)
		}
	}
}

// A mount list on OEM that somebody has edited puts nothing over what a release brings, in whichever list it stands
// and however it is written, and leaves what is right in it.
func TestEditedMountList(t *testing.T) {
	for _, dir := range []string{
		"/bin", "/boot", "/dev", "/lib", "/lib32", "/lib64", "/libx32", "/oem", "/proc", "/run", "/sbin", "/sys",
		"/usr",
	} {
		for _, p := range []string{
			dir, dir + "/x", dir + "/", "/" + dir, dir + "/.", "." + dir, strings.TrimPrefix(dir, "/"),
			"/srv/.." + dir, "/srv/../" + dir, dir + "/../usr",
			dir + "\x00", dir + ",lowerdir=/evil", dir + ":/evil",
		} {
			for _, list := range []string{"bind", "ephemeral"} {
				b, err := json.Marshal(map[string][]string{list: {"/srv/good", p, "/srv/better"}})
				if err != nil {
					t.Fatal(err)
				}
				m, err := ParseMounts(b)
				if err != nil {
					t.Fatal(err)
				}
				usable, errs := m.Usable()
				if got := append(usable.Bind, usable.Ephemeral...); len(errs) != 1 ||
					cmp.Diff([]string{"/srv/good", "/srv/better"}, got) != "" {
					t.Errorf("%s %q: %q is usable, %v", list, p, got, errs)
				}
			}
		}
	}
	for _, p := range []string{"", "/", ".", "..", "/..", "//", "/srv/../.."} {
		if usable, errs := (Mounts{Bind: []string{p}}).Usable(); len(errs) != 1 || len(usable.Bind) > 0 {
			t.Errorf("%q is usable: %v", p, errs)
		}
	}
	for _, text := range []string{"", "[]", `{"bind":"/usr"}`, `{"bind":[{}]}`, "{", "{}{}"} {
		if m, err := ParseMounts([]byte(text)); err == nil {
			t.Errorf("%q: %+v", text, m)
		}
	}
}

func TestStateNamesDiffer(t *testing.T) {
	names := map[string]string{}
	for _, p := range append(append(PersistentPaths(), EphemeralPaths()...), RetiredPaths()...) {
		if other, ok := names[StateName(p)]; ok {
			t.Errorf("%s and %s are both %s", p, other, StateName(p))
		}
		names[StateName(p)] = p
	}
}

// No two usable paths share a name, and none of them has a character that an option of overlayfs would need to escape.
func FuzzMounts(f *testing.F) {
	f.Add([]byte(`{"bind":["/srv/a-b","/srv/a/b"],"ephemeral":["/x,y"]}`))
	f.Add(Mounts{Bind: PersistentPaths()}.Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMounts(b)
		if err != nil {
			return
		}
		again, err := ParseMounts(m.Marshal())
		if d := cmp.Diff(m, again, cmpopts.EquateEmpty()); err != nil || d != "" {
			t.Errorf("round trip: %v %s", err, d)
		}
		usable, _ := m.Usable()
		if err := usable.Check(); err != nil {
			t.Errorf("usable paths are refused: %v", err)
		}
		names := map[string]string{}
		for _, p := range append(append([]string{}, usable.Bind...), usable.Ephemeral...) {
			if other, ok := names[StateName(p)]; ok && other != p {
				t.Errorf("%q and %q share %q", p, other, StateName(p))
			}
			names[StateName(p)] = p
			if strings.ContainsAny(p, `:,\`) || strings.Contains(StateName(p), "/") {
				t.Errorf("%q is usable", p)
			}
		}
	})
}

func FuzzBoot(f *testing.F) {
	f.Add(
		Boot{
			Release:  "0123456789ab",
			Role:     RoleSystem,
			Devices:  map[string]string{"efi": "/dev/sda2"},
			Problems: []string{"x"},
		}.Marshal(),
	)
	f.Fuzz(func(t *testing.T, b []byte) {
		boot, err := ParseBoot(b)
		if err != nil {
			return
		}
		again, err := ParseBoot(boot.Marshal())
		if d := cmp.Diff(boot, again, cmpopts.EquateEmpty()); err != nil || d != "" {
			t.Errorf("round trip: %v %s", err, d)
		}
	})
}

func TestReleaseHasAtMostTheKernelsLayers(t *testing.T) {
	digest := Digest("sha256:" + strings.Repeat("0123456789abcdef", 4))
	r := Release{Config: digest, Arch: "amd64"}
	for range MaxLayers {
		r.Layers = append(r.Layers, Layer{DiffID: digest, Size: 4096, RootHash: digest.Hex()})
	}
	if _, err := r.Marshal(); err != nil {
		t.Error(err)
	}
	r.Layers = append(r.Layers, r.Layers[0])
	if _, err := r.Marshal(); err == nil || !strings.Contains(err.Error(), "501 layers: the kernel takes 500") {
		t.Errorf("%v", err)
	}
}

// An image on top of a bootable one has that one's file, and says by its label which version it is itself.
func TestReleaseVersion(t *testing.T) {
	file := []byte("KAIROS_VERSION=\"v1\"\n")
	for want, got := range map[string]string{
		"v2": ReleaseVersion(map[string]string{ImageLabelVersion: "v2"}, file),
		"v1": ReleaseVersion(map[string]string{"org.opencontainers.image.version": "24.04"}, file),
		"":   ReleaseVersion(nil, nil),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
