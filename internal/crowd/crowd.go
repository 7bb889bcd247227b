// Package crowd simulates many nodes that take one release at the same time: from a registry, through caches of
// several kinds, and from each other. Time is simulated, by events; nothing is fetched, and equal input gives equal
// results.
//
//	node ── a request ──▶ cache or peer ── where that has it not ──▶ registry
//	     ◀── half a round trip, its turn, the bytes, half a round trip ──
//
// A server takes requests one after the other, PerSecond of them, and then gives those who wait for answers the same
// share of its line each, at most what theirs takes; who waits for several has them share it. A node asks as the
// product does: the manifests one after the other, and of each layer first the tree, then its ranges, Workers of them
// at a time.
package crowd

import (
	"container/heap"
	"math/rand/v2"
	"slices"
	"time"
)

// MiB is the size of the parts that heat is counted of, and of what [Slices] keeps.
const MiB = 1 << 20

// Range is a part of a blob, in bytes.
type Range struct{ Off, N int64 }

// Layer is what it takes a node to have a layer's blob.
type Layer struct {
	Blob   int
	Size   int64   // of the whole blob with its tree
	Tree   Range   // asked for first; N is 0 where the layer is fetched as a whole
	Ranges []Range // asked for when the tree is here
}

// Kind is a share of the nodes: those that come from the same release.
type Kind struct {
	Share  float64
	Layers []Layer
}

// Server is what answers requests.
type Server struct {
	Line      float64 // bytes a second
	PerSecond float64 // requests
}

// Cache says what is between nodes and registry.
type Cache int

// Kinds of caches.
const (
	// None: nodes ask the registry.
	None Cache = iota
	// PullThrough is distribution's: what asks for a range of a blob that is not here yet is given all of it, and
	// who asks while the first one is given it is given another copy of the registry.
	PullThrough
	// Whole fetches a blob once when a part of it is asked for; all others wait for that.
	Whole
	// Slices keeps parts of 1 MiB, each fetched once when something of it is asked for.
	Slices
	// Exact keeps answers by the range that was asked for.
	Exact
)

// Config is a crowd and what it asks.
type Config struct {
	Nodes     int
	Kinds     []Kind
	Manifests []Range // asked for one after the other, before the layers; of a blob each, behind the layers' numbers
	Workers   int
	Spread    time.Duration // the nodes begin at random within it

	RTT  time.Duration // between a node and what it asks
	Line float64       // of a node, in bytes a second

	Registry Server
	Cache    Cache
	Caches   int // each node asks the same one
	Cached   Server
	Warm     bool          // the caches have all blobs
	Upstream time.Duration // round trip between a cache and the registry
	Feed     float64       // a cache's line to the registry, in bytes a second

	// Peers has nodes ask another one that has the blob already and has an upload free; else the registry or cache.
	Peers bool
	// Uploads of a peer at a time, each with its share of Uplink bytes a second.
	Uploads int
	Uplink  float64
}

// Result is what happened.
type Result struct {
	Requests, Bytes     int64         // that the registry answered
	CacheRequests, Hits int64         // of nodes to caches
	FromCache           int64         // bytes
	FromPeers           int64         // bytes
	Fetched             int64         // bytes that nodes got
	Peak                int64         // requests to the registry in its busiest second
	Heat                []int64       // times that each MiB of a blob was asked for of the registry, hottest first
	Median, Slowest     time.Duration // of a node, from its begin
	Last                time.Duration // when the last node was done
}

type event struct {
	at  float64 // seconds
	seq int64   // events of the same time are in the order in which they were made
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	if e[i].at != e[j].at {
		return e[i].at < e[j].at
	}
	return e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	l := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return l
}

// sim is a simulation that runs.
type sim struct {
	Config
	now    float64
	seq    int64
	queue  events
	rand   *rand.Rand
	result Result

	registry *server
	caches   []*cache
	peers    map[int][]*peer // that have a blob
	heat     map[part]int64
	second   map[int64]int64
	took     []float64
}

type part struct {
	blob int
	mib  int64
}

// Run lets a crowd fetch.
func Run(c Config) Result {
	s := &sim{
		Config: c, rand: rand.New(rand.NewPCG(1, 2)),
		peers: map[int][]*peer{}, heat: map[part]int64{}, second: map[int64]int64{},
	}
	s.registry = s.serve(c.Registry, c.Line)
	if c.Cache != None {
		s.registry.limit = c.Feed // what asks it are caches
		for range max(1, c.Caches) {
			s.caches = append(s.caches, &cache{server: s.serve(c.Cached, c.Line), has: map[key]*kept{}})
		}
	}
	for i := range c.Nodes {
		s.begin(i)
	}
	for len(s.queue) > 0 {
		e := heap.Pop(&s.queue).(event)
		s.now = e.at
		e.do()
	}
	for _, n := range s.second {
		s.result.Peak = max(s.result.Peak, n)
	}
	for _, n := range s.heat {
		s.result.Heat = append(s.result.Heat, n)
	}
	slices.SortFunc(s.result.Heat, func(a, b int64) int { return int(b - a) })
	slices.Sort(s.took)
	if n := len(s.took); n > 0 {
		s.result.Median, s.result.Slowest = seconds(s.took[n/2]), seconds(s.took[n-1])
	}
	s.result.Last = seconds(s.now)
	return s.result
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func (s *sim) after(seconds float64, do func()) {
	s.seq++
	heap.Push(&s.queue, event{s.now + seconds, s.seq, do})
}

// fromRegistry is somebody's request to the registry.
func (s *sim) fromRegistry(who any, rtt time.Duration, blob int, r Range, done func()) {
	s.after(rtt.Seconds()/2, func() {
		s.result.Requests++
		s.result.Bytes += r.N
		s.second[int64(s.now)]++
		for m := r.Off / MiB; m <= (r.Off+r.N-1)/MiB; m++ {
			s.heat[part{blob, m}]++
		}
		s.registry.answer(who, r.N, func() { s.after(rtt.Seconds()/2, done) })
	})
}
