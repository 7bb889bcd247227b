package layout

import (
	"strings"
	"testing"
)

func TestEntryName(t *testing.T) {
	for _, c := range []struct{ osRelease, version, want string }{
		{"PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nNAME=Debian\n", "v1.4", "Debian GNU/Linux 13 (trixie) - v1.4"},
		{"NAME=Alpine\n", "", "Alpine"},
		{"", "v1", "Kairos - v1"},
		{"PRETTY_NAME='A\u00e4 $(x) `y` \"z\"'\n", "v\n1", "A (x) y z - v1"},
	} {
		if got := EntryName([]byte(c.osRelease), c.version); got != c.want {
			t.Errorf("%q, %q: %q", c.osRelease, c.version, got)
		}
	}
}

// A title is one sector, whatever it says, and its name is read again.
func FuzzEntryOSRelease(f *testing.F) {
	f.Add("Debian GNU/Linux 13 - v1.4", "active, on trial")
	f.Add("\"\\$`'\n", strings.Repeat("x", 1000))
	f.Fuzz(func(t *testing.T, name, state string) {
		b := EntryOSRelease(name, state)
		if len(b) != EntryOSReleaseSize || strings.Contains(string(b), "\nVERSION") {
			t.Fatalf("%d bytes: %q", len(b), b)
		}
		got, ok := ParseEntryName(b)
		if !ok || got != menuText(name, 120) {
			t.Errorf("%q was read as %q", name, got)
		}
		if again := EntryOSRelease(got, state); string(again) != string(b) {
			t.Errorf("%q, once more: %q", b, again)
		}
	})
}

// Every choice of a live medium says that it is one, and names the profile of its words.
func TestLiveChoices(t *testing.T) {
	for i, c := range LiveChoices("Debian 13 - v1") {
		if c.Profile != ProfileLive+i || !strings.Contains(c.Words(), CmdlineLive) {
			t.Errorf("%+v: %q", c, c.Words())
		}
	}
	if p := Profiles(); p[ProfileReset-1].Words != CmdlineReset || p[ProfileDebug-1].Hidden {
		t.Errorf("%+v", p)
	}
	if !strings.Contains(LiveLoaderConfigText, LiveChoices("x")[0].EntryPath()[len(LoaderEntries)+1:]) {
		t.Error("the default is none of the entries")
	}
}
