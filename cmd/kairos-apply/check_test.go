package main

import (
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/api"
)

func TestCheckText(t *testing.T) {
	for _, c := range []struct {
		check api.UpgradeCheck
		want  string
	}{
		{api.UpgradeCheck{
			Release: "0123456789ab", Version: "v2", Outcome: api.OutcomeUpgrade, Layers: 7, Missing: 1,
			Fetch: 12_340_000, Write: 15_000_000, Free: 2e9, Removed: []string{"ba9876543210"},
			Labels:   []api.Difference{{Name: "io.kairos.version", Before: "v1", After: "v2"}},
			Packages: []api.Difference{{Name: "a", Before: "1"}, {Name: "libc6", Before: "2.41-1", After: "2.41-2"}},
		}, `Release 0123456789ab (v2) would boot next, on trial.
1 of 7 layers are not on this node: 12.3 MB to fetch, about 15.0 MB to write, 2000.0 MB free.
Release ba9876543210 would be removed.
Labels that differ from the running release:
    io.kairos.version  v1  -> v2
Packages that differ from the running release:
    a      1       -> -
    libc6  2.41-1  -> 2.41-2
`},
		{api.UpgradeCheck{Release: "0123456789ab", Outcome: api.OutcomeNothing, Layers: 1},
			`Release 0123456789ab is there already: there is nothing to do.
0 of 1 layers are not on this node: 0.0 MB to fetch, about 0.0 MB to write, 0.0 MB free.
Labels are those of the running release.
Packages are those of the running release.
`},
		{api.UpgradeCheck{
			Release: "0123456789ab", Outcome: api.OutcomeUpgrade, Layers: 2, Missing: 1,
			Fetch: 10_700_000, Reuse: 72_000_000, Ranges: 20, Requests: 21, Write: 83e6, Free: 2e9,
		}, `Release 0123456789ab would boot next, on trial.
1 of 2 layers are not on this node: 10.7 MB to fetch in 21 requests (72.0 MB of the blobs' data are here), ` +
			`about 83.0 MB to write, 2000.0 MB free.
Labels are those of the running release.
Packages are those of the running release.
`},
		{api.UpgradeCheck{Outcome: api.OutcomeRefused, Reason: "it is for s390x"},
			"The image would be refused: it is for s390x.\n"},
		{api.UpgradeCheck{
			Release: "0123456789ab", Recovery: true, Outcome: api.OutcomeUpgrade, Layers: 1, PackagesUnknown: "x",
		}, `Release 0123456789ab would be the recovery system.
0 of 1 layers are not on this node: 0.0 MB to fetch, about 0.0 MB to write, 0.0 MB free.
Labels are those of the running release.
Packages are not known: x.
`},
	} {
		var b strings.Builder
		if err := checkText(&b, c.check); err != nil || b.String() != c.want {
			t.Errorf("%v\n got %s\nwant %s", err, b.String(), c.want)
		}
	}
}
