package pcr

import (
	"encoding/hex"
	"testing"

	"github.com/kairos-buildkit/kairos/uki"
)

// What the stub will have measured is what systemd's own tool calculates, for each profile and whatever the order of
// the sections in the file. The word of a role is what it calls a phase.
func TestStarted(t *testing.T) {
	sections := []uki.Section{
		{Name: ".text", Data: []byte("the stub")}, {Name: ".sbat", Data: []byte("sbat,1\n")},
		{Name: ".osrel", Data: []byte("ID=kairos\n")}, {Name: ".cmdline", Data: []byte("quiet")},
		{Name: ".uname", Data: []byte("6.12")}, {Name: ".initrd", Data: []byte("initrd")},
		{Name: ".linux", Data: []byte("kernel")}, {Name: ".pcrpkey", Data: []byte("key")},
		{Name: ".pcrsig", Data: []byte("{}")},
		{Name: ".profile", Data: []byte("ID=main\n")},
		{Name: ".profile", Data: []byte("ID=debug\n")}, {Name: ".cmdline", Data: []byte("quiet debug")},
		{Name: ".profile", Data: []byte("ID=last\n")}, {Name: ".osrel", Data: []byte("hidden")},
	}
	for profile, want := range []string{ // systemd-measure of systemd 257, calculate --phase=kairos-system
		"edbbcd3179362bae0898fa8758d8d714d4bdde274d4c4b8a88b5538757e8655b",
		"2020890eb3435a8aa6c3537456296782de2af31306edd4d1aae7a3d34e64a56c",
		"1e2d0fc001d02f2bf38e2b5bfb203caac4efbae5b8938bdd9cf64444f0bbd330",
	} {
		v, err := Started(sections, profile)
		if err != nil {
			t.Fatal(err)
		}
		if got := v.Extend([]byte("kairos-system")); hex.EncodeToString(got[:]) != want {
			t.Errorf("profile %d: %x, systemd-measure says %s", profile, got, want)
		}
	}
	if v, err := Started(sections, 3); err == nil {
		t.Errorf("a profile that is not there: %x", v)
	}
	if v, err := Started(sections[:9], 1); err == nil {
		t.Errorf("a UKI without profiles: %x", v)
	}
	if _, err := Started(sections[:9], 0); err != nil {
		t.Error(err)
	}
}
