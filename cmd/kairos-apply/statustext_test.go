package main

import (
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/api"
)

// A persistent path that is not kept is no secret of the kernel's log.
func TestStatusSaysWhatThisBootCouldNotDo(t *testing.T) {
	var b strings.Builder
	s := api.Status{Mode: api.ModeInstalled, Problems: []string{"/srv/x is not kept: no space left on device"}}
	if err := statusText(&b, s); err != nil {
		t.Fatal(err)
	}
	if want := "\nProblem: /srv/x is not kept: no space left on device\n"; !strings.HasSuffix(b.String(), want) {
		t.Errorf("%s\nwant at its end %q", b.String(), want)
	}
}

// A sealed system says what it asks for, and who has signed what.
func TestStatusSaysWhoSigned(t *testing.T) {
	first := api.Key{ID: "sha256:01", Algorithm: "ed25519", Name: "release"}
	other := api.Key{ID: "sha256:02", Algorithm: "ecdsa-p256"}
	signatures := []api.Signature{{Key: first, Trusted: true}, {Key: other}}
	booted := &api.Slot{Release: "aaaa", Epoch: 4, Signatures: signatures}
	var b strings.Builder
	s := api.Status{
		Mode: api.ModeInstalled, Booted: booted, Active: booted,
		Passive: &api.Slot{Release: "bbbb", Refused: "release bbbb (v1): it is not signed"},
		Trust:   &api.Trust{Mode: api.TrustRequired, Threshold: 1, Epoch: 3, Keys: []api.Key{first, other}},
	}
	if err := statusText(&b, s); err != nil {
		t.Fatal(err)
	}
	want := `
Sealed: a release needs 1 signature of these keys and an epoch of 3 or more.
    release  ed25519 sha256:01
    -        ecdsa-p256 sha256:02
booted, aaaa, epoch 4, is signed by release, ecdsa-p256 sha256:02 (not verified)
passive, bbbb, epoch 0, is not signed
    refused: release bbbb (v1): it is not signed
`
	if !strings.HasSuffix(b.String(), want) {
		t.Errorf("%s\nwant at its end %s", b.String(), want)
	}
	for want, tpm := range map[string]api.TPM{
		"or more.\nThis machine's TPM holds the epoch 4 as the lowest, and 2 as that of the recovery system.\n": {
			State: api.TPMReady, Epoch: 4, Recovery: 2,
		},
		"or more.\nThis machine has no TPM that holds":   {State: api.TPMNone},
		"or more.\nThe TPM is not asked: it is broken\n": {State: api.TPMFailed, Problem: "it is broken"},
	} {
		b.Reset()
		s.Trust.TPM = &tpm
		if err := statusText(&b, s); err != nil || !strings.Contains(b.String(), want) {
			t.Errorf("%s\nwant %q, %v", b.String(), want, err)
		}
	}
	b.Reset()
	s.Trust = nil
	if err := statusText(&b, s); err != nil || strings.Contains(b.String(), "signed") {
		t.Errorf("a system that is not sealed: %s, %v", b.String(), err)
	}
}

// A recovery system that is tried is a line of its own, and why one failed is said.
func TestStatusTellsOfARecoverySystemOnTrial(t *testing.T) {
	for state, want := range map[string]string{
		api.TrialPending: "starts next, once", api.TrialRunning: "on trial, runs now",
		api.TrialPassed: "takes the old one's place",
		api.TrialFailed: "the old one stays: kernel panic: x\nLast lines of its console:\n    last",
	} {
		trial := &api.RecoveryTrial{State: state, Slot: api.Slot{Release: "0123456789ab"}}
		if state == api.TrialFailed {
			trial.Failure = &api.Failure{Reason: "kernel panic: x", Log: "last"}
		}
		var b strings.Builder
		if err := statusText(&b, api.Status{Mode: api.ModeInstalled, RecoveryTrial: trial}); err != nil {
			t.Fatal(err)
		}
		if got := b.String(); !strings.Contains(got, want) || !strings.Contains(got, "recovery  0123456789ab") {
			t.Errorf("%s:\n%s", state, got)
		}
	}
}

// What a policy has accepted is said of each release once.
func TestStatusSaysWhatThePolicyAccepted(t *testing.T) {
	booted := &api.Slot{Release: "aaaa", Accepted: []api.Acceptance{
		{Scope: "default", Requirement: "insecureAcceptAnything"},
		{Scope: "release", Requirement: "notation strict", Signers: []string{"CN=release"}},
	}}
	var b strings.Builder
	s := api.Status{Mode: api.ModeInstalled, Booted: booted, Active: booted, Passive: &api.Slot{Release: "bbbb"}}
	if err := statusText(&b, s); err != nil {
		t.Fatal(err)
	}
	want := `
The policy has accepted:
booted, aaaa: insecureAcceptAnything (default)
booted, aaaa: notation strict (release), signed by CN=release
`
	if !strings.HasSuffix(b.String(), want) {
		t.Errorf("%s\nwant at its end %s", b.String(), want)
	}
}

// What the firmware starts is said where it is known.
func TestStatusSaysSecureBoot(t *testing.T) {
	for state, want := range map[string]string{
		"": "", api.SecureBootEnforcing: "\nSecure Boot is enforced: ", api.SecureBootOff: "\nSecure Boot is off: ",
		api.SecureBootSetup: "\nSecure Boot is off, in setup mode: ",
	} {
		var b strings.Builder
		err := statusText(&b, api.Status{Mode: api.ModeInstalled, SecureBoot: state})
		if err != nil || strings.Contains(b.String(), "Secure Boot") != (want != "") ||
			!strings.Contains(b.String(), want) {
			t.Errorf("%q: %s, %v", state, &b, err)
		}
	}
}

func TestStatusSaysWhatIsEncrypted(t *testing.T) {
	var b strings.Builder
	encrypted := map[string]string{"COS_PERSISTENT": "", "COS_OEM": "passphrase"}
	s := api.Status{Mode: api.ModeInstalled, Encrypted: encrypted}
	if err := statusText(&b, s); err != nil {
		t.Fatal(err)
	}
	want := "\nCOS_OEM is encrypted, and opened by its passphrase.\nCOS_PERSISTENT is encrypted, and not open.\n"
	if !strings.HasSuffix(b.String(), want) {
		t.Errorf("%s\nwant at its end %q", b.String(), want)
	}
}
