package layout

import (
	"bytes"
	"testing"
)

func TestFirstBoot(t *testing.T) {
	want := FirstBoot{Disk: "8a4d2c5e-0f0b-4c56-9d3a-6b7c1e2f9a10", State: 1 << 30}
	b := want.Marshal()
	if got, err := ParseFirstBoot(b); err != nil || got != want || len(b) != FirstBootSize {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{
		"", "{}",
		`{"disk":"8A4D2C5E-0F0B-4C56-9D3A-6B7C1E2F9A10"}`,
		`{"disk":"8a4d2c5e-0f0b-4c56-9d3a-6b7c1e2f9a10","state":-1}`,
		`{"disk":"8a4d2c5e-0f0b-4c56-9d3a-6b7c1e2f9a10"} x`,
		`{"disk":"8a4d2c5e-0f0b-4c56-9d3a-6b7c1e2f9a10","more":1}`,
	} {
		if got, err := ParseFirstBoot([]byte(bad)); err == nil {
			t.Errorf("%s: %+v", bad, got)
		}
	}
}

func FuzzFirstBoot(f *testing.F) {
	f.Add(FirstBoot{Disk: "8a4d2c5e-0f0b-4c56-9d3a-6b7c1e2f9a10", State: 7}.Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseFirstBoot(b)
		if err != nil {
			return
		}
		again, err := ParseFirstBoot(got.Marshal())
		if err != nil || again != got || !bytes.Equal(again.Marshal(), got.Marshal()) {
			t.Errorf("%+v became %+v, %v", got, again, err)
		}
	})
}
