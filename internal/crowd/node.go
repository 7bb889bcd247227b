package crowd

// peer is a node that has blobs.
type peer struct{ uploads int }

// node is one that fetches.
type node struct {
	*sim
	peer
	cache *cache
	began float64
	kind  Kind
}

// begin has the i-th node begin at a time of its own.
func (s *sim) begin(i int) {
	n := &node{sim: s}
	at := s.rand.Float64()
	for _, k := range s.Kinds {
		n.kind = k
		if at -= k.Share; at < 0 {
			break
		}
	}
	if len(s.caches) > 0 {
		n.cache = s.caches[i%len(s.caches)]
	}
	s.after(s.rand.Float64()*s.Spread.Seconds(), func() {
		n.began = s.now
		n.manifest(0)
	})
}

func (n *node) manifest(i int) {
	if i == len(n.Manifests) {
		n.layer(0)
		return
	}
	r := n.Manifests[i]
	// Of blobs of their own, below those of layers. Nobody asks a peer for what a tag is.
	n.ask(Layer{Blob: -1 - i, Size: r.N}, r, false, func(bool) { n.manifest(i + 1) })
}

func (n *node) layer(i int) {
	if i == len(n.kind.Layers) {
		n.took = append(n.took, n.now-n.began)
		return
	}
	l := n.kind.Layers[i]
	next := func() {
		if n.Peers {
			n.peers[l.Blob] = append(n.peers[l.Blob], &n.peer)
		}
		n.layer(i + 1)
	}
	whole := func() { n.ask(l, Range{0, l.Size}, true, func(bool) { next() }) }
	if l.Tree.N == 0 {
		whole()
		return
	}
	n.ask(l, l.Tree, true, func(all bool) {
		if all {
			whole()
			return
		}
		n.ranges(l, next, whole)
	})
}

func (n *node) ranges(l Layer, next, whole func()) {
	asked, working, refused := 0, 0, false
	var work func()
	work = func() {
		for working < n.Workers && asked < len(l.Ranges) && !refused {
			r := l.Ranges[asked]
			asked++
			working++
			n.ask(l, r, true, func(all bool) {
				working--
				refused = refused || all
				work()
			})
		}
		if working == 0 {
			if refused {
				whole()
			} else {
				next()
			}
		}
	}
	if len(l.Ranges) == 0 {
		next()
		return
	}
	work()
}

// ask asks whoever is asked first. done is told whether it gave all where a part was asked for.
func (n *node) ask(l Layer, r Range, peers bool, done func(whole bool)) {
	got := func(whole bool) {
		if !whole {
			n.result.Fetched += r.N
		}
		done(whole)
	}
	if p := n.upload(l.Blob); peers && p != nil {
		p.uploads++
		n.result.FromPeers += r.N
		rate := min(n.Line, n.Uplink/float64(n.Uploads))
		n.after(n.RTT.Seconds()+float64(r.N)/rate, func() {
			p.uploads--
			got(false)
		})
		return
	}
	if n.cache != nil {
		n.fromCache(n, n.cache, l.Blob, l.Size, r, got)
		return
	}
	n.fromRegistry(n, n.RTT, l.Blob, r, func() { got(false) })
}

// upload finds a peer that has a blob and an upload free, at random: a few are asked, as many as a lookup answers.
func (n *node) upload(blob int) *peer {
	const answers = 3
	has := n.peers[blob]
	for range min(answers, len(has)) {
		if p := has[n.rand.IntN(len(has))]; p.uploads < n.Uploads {
			return p
		}
	}
	return nil
}
