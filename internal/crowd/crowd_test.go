package crowd

import (
	"math"
	"reflect"
	"testing"
	"time"
)

// few are nodes of two kinds: most have ranges of a layer to fetch, some all of it.
func few() Config {
	const size = 20 * MiB
	tree := Range{size - 100_000, 100_000}
	return Config{
		Nodes: 200, Workers: 4, Spread: time.Second, RTT: 20 * time.Millisecond, Line: 12.5e6,
		Manifests: []Range{{0, 1000}, {0, 2000}},
		Registry:  Server{Line: 1.25e9, PerSecond: 2000},
		Cached:    Server{Line: 1.25e9, PerSecond: 2000},
		Upstream:  10 * time.Millisecond, Feed: 1.25e9,
		Kinds: []Kind{
			{0.9, []Layer{{0, size, tree, []Range{{0, 8192}, {MiB - 4096, 8192}, {5 * MiB, 2 * MiB}}}}},
			{0.1, []Layer{{0, size, tree, []Range{
				{0, 4 * MiB}, {4 * MiB, 4 * MiB}, {8 * MiB, 4 * MiB}, {12 * MiB, 4 * MiB},
				{16 * MiB, 4*MiB - 100_000},
			}}}},
		},
		Uploads: 4, Uplink: 12.5e6,
	}
}

// One node's time is what it is on paper.
func TestOneNode(t *testing.T) {
	c := few()
	c.Nodes, c.Spread, c.Kinds = 1, 0, c.Kinds[:1]
	c.Kinds[0].Share = 1
	got := Run(c)
	// Two manifests, the tree and the ranges, which share the line: each of the four a round trip, a turn and its
	// bytes.
	bytes := 1000 + 2000 + 100_000 + 2*8192 + float64(2*MiB)
	want := 4*0.02 + 4.0/2000 + bytes/12.5e6
	if math.Abs(got.Slowest.Seconds()-want) > 1e-6 || got.Requests != 6 || got.Bytes != 103_000+16384+2*MiB ||
		got.Fetched != got.Bytes {
		t.Errorf("%+v, want %f s", got, want)
	}
	if heat := []int64{2, 1, 1, 1, 1, 1}; got.Heat[0] != 2 || len(got.Heat) != 2+1+4 {
		t.Errorf("heat %v, want %v and two manifests", got.Heat, heat)
	}
}

// A line is shared: what all fetch takes as long as the line takes for it.
func TestLineIsShared(t *testing.T) {
	c := few()
	c.Spread, c.Registry.Line = 0, 1e6
	got := Run(c)
	if want := float64(got.Bytes) / 1e6; got.Last.Seconds() < want || got.Last.Seconds() > want*1.2 {
		t.Errorf("%d bytes took %s, want %.0f s", got.Bytes, got.Last, want)
	}
	c = few()
	c.Spread, c.Registry.PerSecond = 0, 10
	if got := Run(c); got.Last.Seconds() < float64(got.Requests)/10 || got.Peak > 210 {
		t.Errorf("%d requests took %s, %d in a second", got.Requests, got.Last, got.Peak)
	}
}

// Every node gets all that it asks for, whoever gives it; and what that spares the registry.
func TestWhoGives(t *testing.T) {
	direct := Run(few())
	if !reflect.DeepEqual(direct, Run(few())) {
		t.Error("two runs differ")
	}
	if direct.Bytes != direct.Fetched || direct.CacheRequests != 0 {
		t.Errorf("%+v", direct)
	}
	blob := int64(20 * MiB)
	for name, c := range map[string]struct {
		change func(*Config)
		check  func(Result) bool
	}{
		"whole": {func(c *Config) { c.Cache = Whole }, func(r Result) bool {
			return r.Requests == 3 && r.Bytes == blob+3000 && r.Hits == r.CacheRequests-3
		}},
		"two of them": {func(c *Config) { c.Cache, c.Caches = Whole, 2 }, func(r Result) bool {
			return r.Requests == 6 && r.Bytes == 2*(blob+3000)
		}},
		"slices": {func(c *Config) { c.Cache = Slices }, func(r Result) bool {
			return r.Requests == 22 && r.Bytes == blob+3000 && r.Heat[0] == 1
		}},
		"exact": {func(c *Config) { c.Cache = Exact }, func(r Result) bool {
			return r.Requests == 2+1+3+5
		}},
		"warm": {func(c *Config) { c.Cache, c.Warm = PullThrough, true }, func(r Result) bool {
			return r.Requests == 0 && r.Hits == r.CacheRequests
		}},
		"peers": {func(c *Config) { c.Peers, c.Spread = true, time.Minute }, func(r Result) bool {
			return r.Bytes+r.FromPeers == r.Fetched && r.FromPeers > r.Fetched/2
		}},
	} {
		config := few()
		c.change(&config)
		got := Run(config)
		if got.Fetched != direct.Fetched && name != "peers" || !c.check(got) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	// Who asks a cold pull-through cache for a part gets all, and while it is given to the first, so does the registry
	// give it to each other one.
	cold := few()
	cold.Cache = PullThrough
	got := Run(cold)
	if got.Bytes < 2*blob || got.Fetched <= direct.Fetched || got.FromCache != got.Fetched {
		t.Errorf("%+v", got)
	}
}
