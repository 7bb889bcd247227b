package node

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// What was fetched of a blob before the machine or the process went away is not fetched again, and a check knows it.
func TestBlocksAreResumed(t *testing.T) {
	const changes, far = 40, 100 << 10
	content := noise(changes * far)
	changed := []byte(content)
	for i := range changes {
		copy(changed[i*far:], "changed")
	}
	boot := bootLayer(t, "loader 1")
	a := newImage(t, runtime.GOARCH, tarOf(t, map[string]string{"big": content}), boot)
	b := newImage(t, runtime.GOARCH, tarOf(t, map[string]string{"big": string(changed)}), boot)
	first := install(t, t.TempDir(), "uefi", t.TempDir(), a)
	reg, src, art := beside(t, first, b)
	blob := art.Blobs[0].Digest.Encoded()

	disk, cache := t.TempDir(), t.TempDir()
	m := install(t, disk, "uefi", cache, a)
	bootedFrom(t, m, disk)
	check, err := m.CheckUpgrade(t.Context(), CheckOptions{UpgradeOptions: UpgradeOptions{Source: src}})
	if err != nil || check.Ranges < changes {
		t.Fatalf("%+v, %v", check, err)
	}
	ctx, kill := context.WithCancel(t.Context())
	var mu sync.Mutex
	asked := 0
	reg.reset(func(_ http.ResponseWriter, r *http.Request, _ *httptest.ResponseRecorder) bool {
		if !strings.Contains(r.URL.Path, blob) {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		if asked++; asked > changes/2 {
			kill()
			panic(http.ErrAbortHandler)
		}
		return false
	})
	if _, err := m.Upgrade(ctx, UpgradeOptions{Source: src}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	reg.reset(nil)
	again := fakeMachine(t, disk, "uefi", a.id, cache, nil)
	bootedFrom(t, again, disk)
	second, err := again.CheckUpgrade(t.Context(), CheckOptions{UpgradeOptions: UpgradeOptions{Source: src}})
	if err != nil {
		t.Fatal(err)
	}
	reg.reset(nil)
	r, err := again.Upgrade(t.Context(), UpgradeOptions{Source: src})
	if err != nil {
		t.Fatal(err)
	}
	// Those that were on their way when it ended are asked for again: as many as there are workers.
	if r.Ranges > check.Ranges-changes/2+1+4 {
		t.Errorf("%d of %d ranges are fetched again", r.Ranges, check.Ranges)
	}
	if r.Fetched != second.Fetch || r.Reused != second.Reuse || r.Ranges != second.Ranges {
		t.Errorf("%+v, and the check said %+v", r.Transfer, second)
	}
	if given := reg.given(func(d string) bool { return d == blob }); given != r.Fetched {
		t.Errorf("the registry gave %d bytes, and %d were counted", given, r.Fetched)
	}
	sameStore(t, first.State, again.State, art.Release)
}
