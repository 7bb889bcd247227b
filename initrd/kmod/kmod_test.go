package kmod

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNames(t *testing.T) {
	for in, want := range map[string]string{
		"kernel/fs/erofs/erofs.ko.xz": "erofs", "dm-verity": "dm_verity",
		"kernel/drivers/block/virtio_blk.ko": "virtio_blk",
		"updates/dkms/a-b.ko.zst":            "a_b",
	} {
		if got := Name(in); got != want {
			t.Errorf("Name(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"virtio:d00000002v*", "virtio:d00000002v00001AF4", true},
		{"virtio:d00000002v*", "virtio:d00000001v00001AF4", false},
		{"pci:v*d*sv*sd*bc01sc08i02*", "pci:v00008086d00005845sv00001AF4sd00001100bc01sc08i02", true},
		{"pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", true},
		{"pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc08i02", false},
		{"cpu:type:x86,ven*fam*mod*:feature:*0094*", "cpu:type:x86,ven0000fam0006mod003C:feature:,0000,0094,0095",
			true},
		{"usb:v0419pAACEd010[0-9]dc*", "usb:v0419pAACEd0104dc00", true},
		{"usb:v0419pAACEd010[0-9]dc*", "usb:v0419pAACEd010Adc00", false},
		{"usb:v0419pAACEd010[!0-9]dc*", "usb:v0419pAACEd010Adc00", true},
		{"*", "", true}, {"", "", true}, {"", "x", false}, {"a*", "a", true}, {"a?", "a", false}, {"[", "[", true},
		{`\*`, "*", true}, {`\*`, "x", false}, {`\`, `\`, false}, {`*\`, `a\`, false}, {`a\`, "a", false},
		{"a**b", "ab", true},
	} {
		if got := Glob(c.pattern, c.s); got != c.want {
			t.Errorf("Glob(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

func TestMatchNamesEachModuleOnce(t *testing.T) {
	x := Index{Aliases: []Alias{{"pci:*", "ahci"}, {"pci:v1*", "ahci"}, {"pci:v1*", "other"}, {"usb:*", "uas"}}}
	if d := cmp.Diff([]string{"ahci", "other"}, x.Match("pci:v1")); d != "" {
		t.Error(d)
	}
}

func TestParseRejects(t *testing.T) {
	for _, s := range []string{"module", "alias a", "alias a b c", "insmod x"} {
		if _, err := Parse([]byte(s)); err == nil {
			t.Errorf("Parse(%q) accepted", s)
		}
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte("module erofs crc32c_generic libcrc32c\nmodule loop\nalias virtio:d00000002v* virtio_blk\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		x, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(x.Marshal())
		if err != nil || !bytes.Equal(again.Marshal(), x.Marshal()) || cmp.Diff(x, again) != "" {
			t.Errorf("%q: %v then %v (%v)", text, x, again, err)
		}
	})
}

func FuzzGlob(f *testing.F) {
	f.Add("a*[0-9]?", "abc1d")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		got := Glob(pattern, s)
		if got && !Glob(pattern+"*", s+"more") {
			t.Errorf("%q matches %q, but %q* does not match %qmore", pattern, s, pattern, s)
		}
		if !Glob("*", s) {
			t.Errorf("* does not match %q", s)
		}
	})
}
