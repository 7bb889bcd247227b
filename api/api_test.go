package api

import (
	"encoding/json"
	"testing"
	"time"
)

// The names of fields are what scripts were written against.
func TestNames(t *testing.T) {
	slot := &Slot{
		Release:   "r",
		Version:   "v",
		Image:     "i",
		TriesLeft: 1,
		TriesUsed: 2,
		Problem:   "p",
		Failure:   &Failure{"r", "l"},
	}
	const slotText = `{"release":"r","version":"v","image":"i","blessed":false,"triesLeft":1,` +
		`"triesUsed":2,"problem":"p","failure":{"reason":"r","log":"l"}}`
	for _, tc := range []struct {
		value any
		want  string
	}{
		{Status{Schema: Schema, Mode: ModeInstalled, Firmware: "uefi", SecureBoot: SecureBootSetup, Booted: slot,
			Failed: []Slot{*slot}},
			`{"schema":1,"mode":"installed","firmware":"uefi","secureBoot":"setup","booted":` +
				slotText + `,"failed":[` + slotText + `]}`},
		{Status{Schema: Schema, Mode: ModeInstalled,
			Trust: &Trust{TrustRequired, 1, 2, []Key{{"k", "ed25519", "n"}}, &TPM{TPMFailed, "p", 3, 4}},
			Booted: &Slot{Release: "r", Epoch: 2, Refused: "why",
				Signatures: []Signature{{Key{"k", "ed25519", "n"}, true}}}},
			`{"schema":1,"mode":"installed","booted":{"release":"r","epoch":2,` +
				`"signatures":[{"id":"k","algorithm":"ed25519","name":"n","trusted":true}],"refused":"why",` +
				`"blessed":false,"triesLeft":0,"triesUsed":0},` +
				`"trust":{"mode":"required","threshold":1,"epoch":2,` +
				`"keys":[{"id":"k","algorithm":"ed25519","name":"n"}],` +
				`"tpm":{"state":"failed","problem":"p","epoch":3,"recovery":4}}}`},
		{Result{Release: "r", Version: "v", Changed: true, Recovery: true, Removed: []string{"x"}},
			`{"release":"r","version":"v","changed":true,"recovery":true,"removed":["x"]}`},
		{InstallResult{Device: "d", Release: "r", Version: "v"}, `{"device":"d","release":"r","version":"v"}`},
		{UpgradeCheck{
			Release: "r", Version: "v", Booted: "b", Outcome: OutcomeRefused, Reason: "why", Layers: 2, Missing: 1,
			Fetch: 3, Write: 4, Free: 5, Removed: []string{"x"}, Labels: []Difference{{"n", "1", "2"}},
			PackagesUnknown: "u",
		},
			`{"release":"r","version":"v","booted":"b","outcome":"would be refused","reason":"why","layers":2,` +
				`"missing":1,"fetch":3,"write":4,"free":5,"removed":["x"],` +
				`"labels":[{"name":"n","before":"1","after":"2"}],` +
				`"packagesUnknown":"u"}`},
		{GCResult{Removed: []string{}}, `{"removed":[]}`},
		{Assessment{Release: "r", Outcome: OutcomeGood, Checks: []Check{{"n", true, "o"}},
			Problems: []string{"p"}},
			`{"release":"r","outcome":"good already","checks":[{"name":"n","ok":true,"output":"o"}],` +
				`"problems":["p"]}`},
		{Inspection{Schema: Schema, Source: "s", Kind: KindRaw, Size: 1, SectorSize: 512,
			Partitions: []Partition{{1, "n", "t", "g", 2, 3, "ext4", "l"}},
			Releases: []Release{{Release: "r", Version: "v", Place: PlaceState, Role: "active", Image: "i",
				ConfigDigest: "c",
				Arch:         "a", Created: &time.Time{}, Labels: map[string]string{"k": "v"},
				Cmdline: "c", Kernel: "6",
				Layers: []Layer{{"d", 4, "h", []string{"x"}}}, Size: 4, Shared: 4}},
			Entries:   []BootEntry{{"r", 1, true, 8, 1}},
			BootFiles: []BootFile{{"p", 5, "c"}}, Configs: []string{"y"}, Problems: []string{"p"}},
			`{"schema":1,"source":"s","kind":"raw","size":1,"sectorSize":512,` +
				`"partitions":[{"number":1,"name":"n","type":"t","guid":"g","start":2,"size":3,"fs":"ext4",` +
				`"label":"l"}],` +
				`"releases":[{"release":"r","version":"v","place":"state","role":"active",` +
				`"image":"i","configDigest":"c",` +
				`"arch":"a",` +
				`"created":"0001-01-01T00:00:00Z","labels":{"k":"v"},"cmdline":"c","kernel":"6",` +
				`"layers":[{"diffID":"d","size":4,"rootHash":"h","sharedWith":["x"]}],"size":4,` +
				`"shared":4}],"entries":[{"release":"r","sequence":1,"blessed":true,"triesLeft":8,"triesUsed":1}],` +
				`"bootFiles":[{"path":"p","size":5,"cmdline":"c"}],"configs":["y"],"problems":["p"]}`},
		{Event{Step: StepFetch, Object: "o", Layer: "l", Done: 1, Total: 2, Rate: 3, Text: "t"},
			`{"step":"fetch","object":"o","layer":"l","bytes":1,"total":2,"rate":3,"text":"t"}`},
	} {
		b, err := json.Marshal(tc.value)
		if err != nil {
			t.Fatal(err)
		}
		if string(b) != tc.want {
			t.Errorf("%T:\n got %s\nwant %s", tc.value, b, tc.want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	if int(ExitFellBack) != len(exitMeanings)-1 {
		t.Errorf("%d codes, %d meanings", ExitFellBack+1, len(exitMeanings))
	}
	if got := ExitLocked.String(); got != "another kairos-apply is at work" {
		t.Errorf("ExitLocked: %s", got)
	}
	if got := ExitCode(99).String(); got != "exit code 99" {
		t.Errorf("99: %s", got)
	}
}
