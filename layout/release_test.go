package layout

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The record's text is pinned: what is signed is these bytes, and others write them, too.
const releaseText = `{
  "schema": 2,
  "version": "v1.2.3",
  "config": "sha256:` + hexA + `",
  "manifest": "sha256:` + hexB + `",
  "epoch": 3,
  "arch": "amd64",
  "labels": {
    "io.kairos.cmdline": "a<b&c"
  },
  "format": "zstd-0-v3",
  "uki": "sha256:` + hexA + `",
  "layers": [
    {
      "diffID": "sha256:` + hexB + `",
      "size": 8192,
      "rootHash": "` + hexA + `"
    }
  ]
}
`

const releaseTextV1 = `{
  "version": "v1.2.3",
  "image": "example.test/os:v1.2.3",
  "config": "sha256:` + hexA + `",
  "arch": "amd64",
  "layers": [
    {
      "diffID": "sha256:` + hexB + `",
      "size": 8192,
      "rootHash": "` + hexA + `"
    }
  ]
}
`

func TestReleaseText(t *testing.T) {
	v2 := sample()
	v2.Labels = map[string]string{ImageLabelCmdline: "a<b&c"}
	v1 := sample().AsV1()
	v1.Image = "example.test/os:v1.2.3"
	for want, r := range map[string]Release{releaseText: v2, releaseTextV1: v1} {
		b, err := r.Marshal()
		if err != nil || string(b) != want {
			t.Errorf("%v\n%s", err, cmp.Diff(want, string(b)))
		}
		if got, err := ParseRelease([]byte(want)); err != nil || cmp.Diff(r, got) != "" {
			t.Errorf("%v\n%s", err, cmp.Diff(r, got))
		}
	}
}

func TestReleaseRejects(t *testing.T) {
	for from, to := range map[string]string{
		`"schema": 2`:            `"schema": 3`,
		`"schema": 2,` + "\n  ":  `"schema": null,` + "\n  ",
		`"epoch": 3`:             `"epoch": -1`,
		`"epoch": 3,`:            `"epoch": 2147483648,`,
		`"zstd-0-v3"`:            `"zstd-0-v03"`,
		`"uki": "sha256:8`:       `"uki": "sha256:`,
		`"manifest": "sha256:01`: `"manifest": "sha512:01`,
		`"arch"`:                 `"image": "x", "arch"`,
	} {
		bad := strings.Replace(releaseText, from, to, 1)
		if _, err := ParseRelease([]byte(bad)); err == nil || bad == releaseText {
			t.Errorf("%s: accepted", to)
		}
	}
	mixed := sample()
	mixed.V1 = true
	if _, err := mixed.Marshal(); err == nil {
		t.Error("a record of the first format with an epoch")
	}
}

func TestImageEpoch(t *testing.T) {
	for label, want := range map[string]int64{"": 0, "0": 0, "7": 7, "2147483647": MaxEpoch} {
		if got, err := ImageEpoch(map[string]string{ImageLabelEpoch: label}); got != want || err != nil {
			t.Errorf("%q: %d, %v", label, got, err)
		}
	}
	for _, label := range []string{"-1", "07", "+7", "1e3", "2147483648", " 1"} {
		if got, err := ImageEpoch(map[string]string{ImageLabelEpoch: label}); err == nil {
			t.Errorf("%q: %d", label, got)
		}
	}
}

func FuzzParseOrigin(f *testing.F) {
	f.Add([]byte("registry.example/os:v1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		image, err := ParseOrigin(b)
		if err != nil {
			return
		}
		if again, err := MarshalOrigin(image); err != nil || string(again) != string(b) {
			t.Errorf("%q parses, but formats as %q (%v)", b, again, err)
		}
	})
}
