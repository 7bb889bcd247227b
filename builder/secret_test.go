package builder

import (
	"context"
	"fmt"
	"strings"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/exporter"
)

// A cloud-config has passwords: it does not stay in the record of a build, which has the attributes of each
// exporter, and the media that are kept with it.
func TestCloudConfigIsNotRecorded(t *testing.T) {
	attrs := map[string]string{"format": "raw", "cloud-config": "users: [{name: kairos, passwd: s3cret}]\n"}
	for name, e := range map[string]exporter.Exporter{
		"file": fileExporter{typ: "tar"}, "folder": folderExporter{fileExporter{typ: "local"}},
	} {
		i, err := e.Resolve(context.Background(), 0, attrs)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if s := fmt.Sprint(i.Attrs()); strings.Contains(s, "s3cret") || !strings.Contains(s, "format:raw") {
			t.Errorf("%s: the record has %s", name, s)
		}
	}
	if attrs["cloud-config"] == "(not recorded)" {
		t.Error("the medium's own attributes were changed")
	}
	for _, push := range []string{"", "true"} {
		own := map[string]string{"cloud-config": attrs["cloud-config"], "name": "registry.example/os:v1", "push": push}
		if push == "" {
			delete(own, "push")
		}
		_, err := attachExporter{format: "raw"}.Resolve(context.Background(), 0, own)
		if err == nil || strings.Contains(err.Error(), "s3cret") ||
			!strings.Contains(err.Error(), "type=tar,format=raw") {
			t.Errorf("kept with the record: %v", err)
		}
	}
}

// What is refused does not show the secret either.
func TestConfigErrorShowsNoSecret(t *testing.T) {
	_, err := ParseMedium(
		"raw",
		map[string]string{"cloud-config": "users: [{name: kairos, passwd: s3cret, sudoo: x}]\n"},
	)
	if err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), `did you mean "sudo"`) {
		t.Errorf("%v", err)
	}
}

// BuildKit's controller logs a request's attributes: it does not see the config, and the exporters do.
func TestControllerDoesNotSeeConfigs(t *testing.T) {
	const secret = "users: [{name: kairos, passwd: s3cret}]\n"
	attrs := func() map[string]string { return map[string]string{"format": "raw", "cloud-config": secret} }
	for name, r := range map[string]*controlapi.SolveRequest{
		"exporters": {Exporters: []*controlapi.Exporter{
			{Type: "tar", Attrs: map[string]string{"format": "raw"}}, {Type: "tar", Attrs: attrs()}, nil,
		}},
		"an old client": {ExporterDeprecated: "tar", ExporterAttrsDeprecated: attrs()},
	} {
		_, err := hideConfigs(t.Context(), r, nil, func(ctx context.Context, _ any) (any, error) {
			if strings.Contains(fmt.Sprint(r), "s3cret") {
				t.Errorf("%s: the controller sees %v", name, r)
			}
			id, seen := 0, r.ExporterAttrsDeprecated
			if len(r.Exporters) > 0 {
				id, seen = 1, r.Exporters[1].Attrs
				i, err := fileExporter{typ: "tar"}.Resolve(ctx, 0, r.Exporters[0].Attrs)
				if err != nil || len(i.(*fileInstance).medium.CloudConfig) != 0 {
					t.Errorf("the other exporter: %v", err)
				}
			}
			i, err := fileExporter{typ: "tar"}.Resolve(ctx, id, seen)
			if err != nil || string(i.(*fileInstance).medium.CloudConfig) != secret {
				t.Errorf("%s: the exporter gets %v, %v", name, i, err)
			}
			return nil, nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// A config with anything wrong in it gets onto no medium; what only looks odd does.
func TestConfigsOnMedia(t *testing.T) {
	bomb := "x-a: &a [1,1,1,1,1,1,1,1,1,1]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += fmt.Sprintf("x-%c: &%[1]c [%s]\n", c, strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 10), ","))
	}
	for name, tc := range map[string]struct{ text, says string }{
		"wrong key":       {"hostname: a\nhostnam: b\n", "cloud-config:2: hostnam"},
		"wrong type":      {"users: 3\n", "want a list"},
		"broken":          {"users: [\n", "not YAML"},
		"tabs":            {"install:\n\tauto: true\n", "use spaces"},
		"alias bomb":      {bomb, "fewer aliases"},
		"two documents":   {"hostname: a\n---\nhostname: b\n", "second document"},
		"not text":        {"hostname: a\n\x00", "not text"},
		"too large":       {"#" + strings.Repeat("x", 5<<20), "at most"},
		"empty":           {"\n", ""},
		"1 MB comments":   {strings.Repeat("# a comment of some length\n", 40_000) + "hostname: a\n", ""},
		"anchors":         {"x-u: &u {name: kairos}\nusers: [*u]\n", ""},
		"carriage return": {"hostname: a\r\nstrict: true\r\n", ""},
		"byte order mark": {"\xef\xbb\xbfhostname: a\n", ""},
	} {
		for _, format := range []string{"iso", "raw", "qcow2"} {
			_, err := ParseMedium(format, map[string]string{"cloud-config": tc.text})
			switch {
			case tc.says == "" && err != nil:
				t.Errorf("%s, %s: %v", format, name, err)
			case tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)):
				t.Errorf("%s, %s: %v, want %s", format, name, err, tc.says)
			}
		}
	}
}
