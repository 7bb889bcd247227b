package layout

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseHealth(t *testing.T) {
	for _, c := range []struct {
		checks, network, soak string
		want                  Health
		fails                 string
	}{
		{"", "", "", Health{}, ""},
		{"network, units units", "", "", Health{Checks: []string{"network", "units"}}, ""},
		{"kubelet", "https://a/healthz", "90s",
			Health{[]string{"kubelet"}, "https://a/healthz", 90 * time.Second}, ""},
		{"", "oci:registry.example/os:v1", "24h", Health{Network: "oci:registry.example/os:v1", Soak: maxSoak}, ""},
		{"disk units", "", "", Health{Checks: []string{"units"}}, `no check "disk"`},
		{"", "registry.example", "", Health{}, "want https://"},
		{"", "https:///x", "", Health{}, "want https://"},
		{"", "oci:", "", Health{}, "want https://"},
		{"", "", "25h", Health{}, "at most 24h"},
		{"", "", "-1s", Health{}, "soak time"},
		{"", "", "10", Health{}, "soak time"},
	} {
		got, err := ParseHealth(map[string]string{
			ImageLabelHealth: c.checks, ImageLabelHealthNetwork: c.network, ImageLabelSoak: c.soak,
		})
		if !reflect.DeepEqual(got, c.want) || (err == nil) != (c.fails == "") ||
			err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%+v: %+v, %v", c, got, err)
		}
	}
}
