package crowd

// cache is one between nodes and the registry.
type cache struct {
	*server
	has map[key]*kept
}

// key is what a cache keeps a thing under.
type key struct {
	blob int
	Range
}

// kept is a thing that is here, or that is being fetched while waiting is not empty.
type kept struct {
	here    bool
	waiting []func()
}

// fromCache is a node's request to its cache. done is told whether the answer was the whole blob, to who asked for a
// part.
func (s *sim) fromCache(who any, c *cache, blob int, size int64, r Range, done func(whole bool)) {
	s.after(s.RTT.Seconds()/2, func() {
		s.result.CacheRequests++
		give := func(n int64, whole bool) {
			s.result.FromCache += n
			c.answer(who, n, func() { s.after(s.RTT.Seconds()/2, func() { done(whole) }) })
		}
		if s.Warm && s.Cache != Exact {
			s.result.Hits++
			give(r.N, false)
			return
		}
		all := Range{0, size}
		switch s.Cache {
		case PullThrough:
			has := c.has[key{blob, all}]
			switch {
			case has != nil && has.here:
				s.result.Hits++
				give(r.N, false)
			case r != all:
				// It begins to give all, so that the node hangs up, and then so does the cache.
				s.fromRegistry(c, s.Upstream, blob, Range{}, func() {
					c.answer(who, 0, func() { s.after(s.RTT.Seconds()/2, func() { done(true) }) })
				})
			case has != nil:
				s.fromRegistry(c, s.Upstream, blob, all, func() { give(size, false) })
			default:
				has = &kept{}
				c.has[key{blob, all}] = has
				s.fromRegistry(c, s.Upstream, blob, all, func() { has.here = true; give(size, false) })
			}
		case Whole:
			s.keep(c, key{blob, all}, func(hit bool) { s.hit(hit); give(r.N, false) })
		case Exact:
			s.keep(c, key{blob, r}, func(hit bool) { s.hit(hit); give(r.N, false) })
		case Slices:
			missing, hit := 1, true
			arrived := func(had bool) {
				hit = hit && had
				if missing--; missing == 0 {
					s.hit(hit)
					give(r.N, false)
				}
			}
			for off := r.Off / MiB * MiB; off < r.Off+r.N; off += MiB {
				missing++
				s.keep(c, key{blob, Range{off, min(MiB, size-off)}}, arrived)
			}
			arrived(true)
		}
	})
}

func (s *sim) hit(hit bool) {
	if hit {
		s.result.Hits++
	}
}

// keep has a thing in the cache, and says whether it was there.
func (s *sim) keep(c *cache, k key, done func(hit bool)) {
	has := c.has[k]
	switch {
	case has != nil && has.here:
		done(true)
	case has != nil: // it is under way: the registry is not asked again
		has.waiting = append(has.waiting, func() { done(true) })
	default:
		has = &kept{}
		c.has[k] = has
		s.fromRegistry(c, s.Upstream, k.blob, k.Range, func() {
			has.here = true
			done(false)
			for _, w := range has.waiting {
				w()
			}
			has.waiting = nil
		})
	}
}
