package node

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// A restart in order ends whoever has asked for it: he must not wait for a minute then, and do it by force.
func TestRestartIsInOrder(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for name, script := range map[string]string{"answered": "exit 0", "ended by init": "kill -TERM $$"} {
		err := os.WriteFile(filepath.Join(dir, "kairos-test-reboot"), []byte("#!/bin/sh\n"+script+"\n"), 0o755)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err = power(ctx, "kairos-test-reboot", 0, func(int) error { t.Errorf("%s: by force", name); return nil })
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	forced := 0
	force := func(int) error { forced++; return nil }
	if err := power(t.Context(), "kairos-test-no-such-program", 0, force); err != nil || forced != 1 {
		t.Errorf("without the program: %v, forced %d times", err, forced)
	}
}
