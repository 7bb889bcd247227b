package layout

import (
	"strings"
	"testing"
)

func TestCosignTag(t *testing.T) {
	d := Digest("sha256:" + strings.Repeat("0a", 32))
	tag := "sha256-" + strings.Repeat("0a", 32) + ".sig"
	if got := d.CosignTag(); got != tag || !IsCosignTag(got) {
		t.Errorf("%s, %t", got, IsCosignTag(got))
	}
	for _, no := range []string{"", "v1", ".sig", "sha256-.sig", tag + "x", strings.TrimSuffix(tag, ".sig"), "x" + tag,
		strings.ToUpper(tag)} {
		if IsCosignTag(no) {
			t.Errorf("%q is one", no)
		}
	}
}

func FuzzIsCosignTag(f *testing.F) {
	f.Add("sha256-" + strings.Repeat("0a", 32) + ".sig")
	f.Fuzz(func(t *testing.T, tag string) {
		if !IsCosignTag(tag) {
			return
		}
		hex := strings.TrimSuffix(strings.TrimPrefix(tag, "sha256-"), ".sig")
		if d, err := ParseDigest("sha256:" + hex); err != nil || d.CosignTag() != tag {
			t.Errorf("%q: %s, %v", tag, d, err)
		}
	})
}
