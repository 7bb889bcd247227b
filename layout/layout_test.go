package layout

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	hexA    = "8f1c0a6bd4f3a7d2c19e5b0f7a6c3d2e1f00112233445566778899aabbccddee"
	hexB    = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	digestA = Digest("sha256:" + hexA)
	digestB = Digest("sha256:" + hexB)
)

func sample() Release {
	return Release{
		Version: "v1.2.3", Image: "example.test/os:v1.2.3", Config: digestA, Arch: "amd64",
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
	for _, s := range []string{"", "sha256:", hexA, "sha512:" + hexA, "sha256:" + strings.ToUpper(hexA), "sha256:" + hexA + "0", "sha256:../" + hexA[3:]} {
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
		"kairos-00000007-" + id + "+3-0.efi": {Seq: 7, ID: id, Counted: true, Left: 3},
		"kairos-00000007-" + id + "+0-3.efi": {Seq: 7, ID: id, Counted: true, Done: 3},
		"kairos-00000007-" + id + ".efi":     {Seq: 7, ID: id},
		"kairos-00000000-" + id + ".efi":     {ID: id},
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
		"", "kairos-.efi", "kairos-7-" + id + ".efi", "kairos-00000007-" + id + "+3.efi", "kairos-00000007-" + id + "+10-0.efi",
		"kairos-00000007-" + id + "+.efi", "kairos-00000007-" + id[:11] + ".efi", "KAIROS-00000007-" + id + ".efi", "kairos-+0000007-" + id + ".efi",
		"kairos-00000007-" + id + "+3-0.efi.tmp", "kairos-00000007-" + id,
	} {
		if e, err := ParseEntry(name); err == nil {
			t.Errorf("ParseEntry(%q) = %+v, want an error", name, e)
		}
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
	for _, bad := range []string{"", "{}", `{"roothash":"00","hashoffset":4096}`, `{"roothash":"` + hexA + `","hashoffset":1}`, `{"roothash":"` + hexA + `","hashoffset":-4096}`} {
		if _, err := ParseSidecar([]byte(bad)); err == nil {
			t.Errorf("ParseSidecar(%q) accepted", bad)
		}
	}
}

func TestCmdline(t *testing.T) {
	c := ParseCmdline("  console=ttyS0 console=tty0\tquiet \"kairos.x=a b\" kairos.y=\"c d\" kairos.live\n")
	for key, want := range map[string]string{"console": "tty0", "quiet": "", "kairos.x": "a b", "kairos.y": "c d", "kairos.live": ""} {
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
	b, _ := sample().Marshal()
	f.Add(b)
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
		{Entries: []Entry{{Seq: 7, ID: id, Counted: true, Left: 3}, {Seq: 6, ID: hexB[:12]}, {Seq: 5, ID: id, Counted: true, Done: 3}}, Recovery: id, Next: "recovery"},
	} {
		b, err := want.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if len(b) != GrubEnvSize {
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
	want := Boot{Release: hexA[:12], Role: RoleSystem, Firmware: "uefi", Entry: "x", Trial: true, Deadline: 600, Devices: map[string]string{"efi": "/dev/vda2"}}
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
	r.Labels = ReleaseLabels(map[string]string{ImageLabelCmdline: "quiet \"a\"\n<&>", "org.example": "x", ImageLabelVersion: "v1"})
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
	for _, p := range PersistentPaths() {
		if err := (Mounts{Bind: []string{p}}).Check(); err != nil {
			t.Error(err)
		}
	}
}
