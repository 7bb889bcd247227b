package main

import (
	"slices"
	"testing"
)

// The flags mean what they mean to buildx.
func TestAddHost(t *testing.T) {
	for in, want := range map[string]string{
		"a:10.0.0.1": "a=10.0.0.1", "a=10.0.0.1": "a=10.0.0.1", "a:fd00::1": "a=fd00::1", "a=fd00::1": "a=fd00::1",
		"a:[fd00::1]": "a=fd00::1", "a=[::1]": "a=::1",
		"a": "", "a:": "", ":10.0.0.1": "", "a:b": "", "a,b:10.0.0.1": "", "a:fe80::1%eth0": "",
		"a:host-gateway": "a=127.0.0.1",
	} {
		got, err := extraHosts([]string{in})
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v, want %q", in, got, err, want)
		}
	}
	if got, err := extraHosts([]string{"a:1.2.3.4", "b:::1"}); err != nil || got != "a=1.2.3.4,b=::1" {
		t.Errorf("%q, %v", got, err)
	}
}

// The host's network is an entitlement, which the flag asks for.
func TestNetworkHostIsAllowed(t *testing.T) {
	o := &buildOptions{network: "host", noCacheFilter: []string{"a", "b"}}
	solve, err := o.solveOptions()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(solve.AllowedEntitlements, "network.host") ||
		solve.FrontendAttrs["force-network-mode"] != "host" {
		t.Errorf("%+v", solve)
	}
	if solve.FrontendAttrs["no-cache"] != "a,b" {
		t.Errorf("no-cache=%q", solve.FrontendAttrs["no-cache"])
	}
}
