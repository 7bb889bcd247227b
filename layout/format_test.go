package layout

import "testing"

func TestParseFormat(t *testing.T) {
	if f, err := ParseFormat("zstd-0-v2"); err != nil || f != (Format{"zstd", 0, 2}) {
		t.Errorf("%+v, %v", f, err)
	}
	for _, bad := range []string{
		"", "zstd", "zstd-0", "xz-0-v2", "zstd--1-v2", "zstd-00-v2", "zstd-0-v0", "zstd-0-2", "zstd-0-v2-x",
		"zstd-+1-v2",
	} {
		if f, err := ParseFormat(bad); err == nil {
			t.Errorf("%q: %+v", bad, f)
		}
	}
}

func FuzzFormat(f *testing.F) {
	f.Add("zstd-15-v3")
	f.Add("none-0-v1")
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := ParseFormat(s); err == nil && got.String() != s {
			t.Errorf("%q became %q", s, got)
		}
	})
}
