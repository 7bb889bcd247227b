package exporter

import "testing"

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"1": 1, "512M": 512 << 20, "8G": 8 << 30, "8g": 8 << 30, "8GiB": 8 << 30, "8GB": 8 << 30, " 2T ": 2 << 40,
		"4K": 4096,
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "-1", "G", "8X", "8.5G", "99999999999T", "8 G B", "1e9"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", in, got)
		}
	}
}

func TestParseFormat(t *testing.T) {
	for _, f := range Formats() {
		if got, err := ParseFormat(string(f)); err != nil || got != f {
			t.Errorf("ParseFormat(%q) = %s, %v", f, got, err)
		}
	}
	if _, err := ParseFormat("vmdk"); err == nil {
		t.Error("vmdk accepted")
	}
}
