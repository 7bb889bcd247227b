package helper

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// The answer of a command is its object, its exit code, and why it failed; nothing of it is guessed from other text.
func TestRun(t *testing.T) {
	for name, tc := range map[string]struct {
		script string
		want   v1alpha1.HelperReport
	}{
		"done": {`echo '{"step":"fetch"}' >&2; echo '{"release":"r","version":"v","changed":true,"fetched":7}'`,
			v1alpha1.HelperReport{Release: "r", Version: "v", Changed: true, Fetched: 7}},
		"refused": {`echo no JSON >&2; echo '{"step":"error","text":"3 MiB free"}' >&2; exit 6`,
			v1alpha1.HelperReport{Exit: 6, Reason: "3 MiB free"}},
		"killed":  {`kill -9 $$`, v1alpha1.HelperReport{Exit: -1}},
		"garbage": {`echo hello`, v1alpha1.HelperReport{Reason: "its answer cannot be read: "}},
	} {
		got := Run(context.Background(), io.Discard, "/bin/sh", "-c", tc.script)
		if tc.want.Reason != "" && strings.HasPrefix(got.Reason, tc.want.Reason) {
			got.Reason = tc.want.Reason
		}
		if got != tc.want {
			t.Errorf("%s: got %+v, want %+v", name, got, tc.want)
		}
	}
	if got := Run(context.Background(), io.Discard, "/nowhere/kairos-apply"); got.Exit != -1 || got.Reason == "" {
		t.Errorf("no program: %+v", got)
	}
	long := Run(context.Background(), io.Discard, "/bin/sh", "-c",
		`echo '{"step":"error","text":"`+strings.Repeat("ä", 5000)+`"}' >&2; exit 1`)
	if n := len(long.String()); n > 4096 {
		t.Errorf("a termination message of %d bytes: the kubelet keeps 4096", n)
	}
}

func TestEnterMountsSaysWhatItNeeds(t *testing.T) {
	done := make(chan error)
	go func() { done <- EnterMounts(t.TempDir() + "/none") }() // whose thread ends with it
	if err := <-done; err == nil || !strings.Contains(err.Error(), "hostPID") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat("/proc/self/ns/mnt"); err != nil {
		t.Fatal(err)
	}
}

// A node is restarted in the boot that the pod was made for, and in no other.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	boot, ran := dir+"/boot_id", dir+"/ran"
	script := "#!/bin/sh\n: >" + ran + "\nexit $WANT\n"
	for name, text := range map[string]string{boot: "this-boot\n", dir + "/reboot": script} {
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	for _, tc := range []struct {
		boot, exit, reason string
		runs               bool
	}{
		{"another", "0", "the node has restarted already: its boot is this-boot", false},
		{"this-boot", "0", "", true},
		{"this-boot", "3", "reboot ended with 3", true},
	} {
		t.Setenv("WANT", tc.exit)
		r := Restart(t.Context(), io.Discard, boot, tc.boot)
		err := os.Remove(ran)
		if r.Reason != tc.reason || (r.Exit == 0) != (tc.exit == "0") || (err == nil) != tc.runs {
			t.Errorf("%+v: %+v, %v", tc, r, err)
		}
	}
	if r := Restart(t.Context(), io.Discard, dir+"/none", "this-boot"); r.Exit != -1 {
		t.Errorf("%+v", r)
	}
}
