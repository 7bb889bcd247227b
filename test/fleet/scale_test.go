//go:build fleet

package fleet

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	corev1 "k8s.io/api/core/v1"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// What a fleet may cost.
const (
	maxMemory   = 200 << 20        // bytes of the operator, at its peak
	maxRequests = 30               // of the operator to the API server, for each node and rollout
	maxResume   = 20 * time.Second // from the operator's end to the next one's first write of a Node
)

// A rollout in waves of a hundredth: 5,000 nodes where all tests run, and 300 otherwise. The operator is killed on
// its way.
func TestScale(t *testing.T) {
	count := 300
	if os.Getenv("KAIROS_TEST_ALL") != "" {
		count = 5000
	}
	var g errgroup.Group
	g.SetLimit(32)
	for i := range count {
		g.Go(func() error { return cluster.nodes.join(fmt.Sprintf("scale-%04d", i+1), fleetOf(t)) })
	}
	must(t, g.Wait())
	begin := size(t)
	m := startManager(t, alone)
	began := time.Now()
	u := upgrade(t, "os", func(s *v1alpha1.NodeOpUpgradeSpec) { s.Waves = waves("1%") })
	blessed := func(n int) func() (bool, string) {
		return func() (bool, string) {
			s, err := status(u)
			if s.Phase == v1alpha1.PhaseFailed {
				t.Fatal(s.Message)
			}
			return int(s.Nodes.Blessed) >= n, fmt.Sprint(s.Progress, err)
		}
	}
	eventually(t, 30*time.Minute, "a third is done", blessed(count/3))
	peak := memory(t, m)
	before, at := m.started(), time.Now()
	m.kill()
	eventually(t, maxResume, "it is dead", func() (bool, string) { return m.started() > before, "" })
	killed := size(t)
	var resumed time.Duration
	eventually(t, maxResume, "the next operator writes a Node", func() (ok bool, _ string) {
		requests(t, killed, func(r request) { ok = ok || r.right() == "patch nodes." })
		resumed = time.Since(at)
		return ok, ""
	})
	eventually(t, 30*time.Minute, "all are done", blessed(count))
	took := time.Since(began)
	peak = max(peak, memory(t, m))
	asked := map[string]int{}
	total := 0
	requests(t, begin, func(r request) {
		asked[r.right()]++
		total++
	})
	each := float64(total) / float64(count)
	t.Logf("%d nodes in %d waves: %s; operator: %d MB at its peak, %.1f requests for each node, resumed in %s: %v",
		count, 100, took.Round(time.Second), peak>>20, each, resumed.Round(100*time.Millisecond), asked)
	if peak > maxMemory || each > maxRequests {
		t.Errorf("want at most %d MB, and %d requests", maxMemory>>20, maxRequests)
	}
}

// join adds a node that has no agent: it writes its report itself.
func (k *kubelets) join(name, fleet string) error {
	m := &machine{name: name, boot: 1, runs: v1, blessed: true, answers: map[types.UID]corev1.PodStatus{}}
	k.mu.Lock()
	k.machines[name] = m
	k.mu.Unlock()
	if err := m.join(k.ctx, fleet); err != nil {
		return err
	}
	return m.begin(k.ctx)
}

func size(t *testing.T) int64 {
	t.Helper()
	info, err := os.Stat(cluster.audit)
	must(t, err)
	return info.Size()
}

var residentPeak = regexp.MustCompile(`(?m)^VmHWM:\s+([0-9]+) kB$`)

// memory is what an operator has had in memory at most, in bytes.
func memory(t *testing.T, m *manager) int64 {
	t.Helper()
	m.mu.Lock()
	pid := m.cmd.Process.Pid
	m.mu.Unlock()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	found := residentPeak.FindSubmatch(b)
	if found == nil {
		t.Fatalf("no peak in\n%s", b)
	}
	kb, err := strconv.ParseInt(string(found[1]), 10, 64)
	must(t, err)
	return kb << 10
}
