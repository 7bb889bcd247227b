package crowd

import "container/heap"

// server is one that works. Time is counted in the bytes that each of those who wait was given, so that nothing has to
// be computed again when their number changes.
type server struct {
	Server
	s       *sim
	free    float64 // when it can take the next request
	limit   float64 // of each that waits, in bytes a second
	given   float64 // bytes to each that waits, so far
	at      float64 // when that was counted
	waiting shares
	of      map[any]*share
	version int
}

// share is one that waits for answers, which have the same part of its line each.
type share struct {
	who     any
	answers answers
	given   float64 // bytes to each answer, so far
	at      float64 // what the server had given when that was counted
	due     float64 // what the server will have given when the first answer is done
	index   int
}

// answer is one that is under way.
type answer struct {
	end  float64 // what each answer was given when this one is done
	done func()
}

func (s *sim) serve(what Server, limit float64) *server {
	return &server{Server: what, s: s, limit: limit, of: map[any]*share{}}
}

func (v *server) rate() float64 { return min(v.limit, v.Line/float64(max(1, len(v.waiting)))) }

func (v *server) advance() {
	v.given += (v.s.now - v.at) * v.rate()
	v.at = v.s.now
}

// advance counts what its answers were given until the server has given so much.
func (s *share) advance(given float64) {
	if len(s.answers) > 0 {
		s.given += (given - s.at) / float64(len(s.answers))
	}
	s.at = given
}

func (s *share) plan() { s.due = s.at + (s.answers[0].end-s.given)*float64(len(s.answers)) }

// answer gives somebody n bytes after the request's turn.
func (v *server) answer(who any, n int64, done func()) {
	v.free = max(v.free, v.s.now) + 1/v.PerSecond
	v.s.after(v.free-v.s.now, func() {
		v.advance()
		w := v.of[who]
		if w == nil {
			w = &share{who: who, at: v.given}
			v.of[who] = w
		}
		w.advance(v.given)
		heap.Push(&w.answers, answer{w.given + float64(n), done})
		w.plan()
		if len(w.answers) == 1 {
			heap.Push(&v.waiting, w)
		} else {
			heap.Fix(&v.waiting, w.index)
		}
		v.next()
	})
}

// next waits for the answer that is done first.
func (v *server) next() {
	v.version++
	if len(v.waiting) == 0 {
		return
	}
	version := v.version
	v.s.after(max(0, v.waiting[0].due-v.given)/v.rate(), func() {
		if version != v.version {
			return // something has changed since
		}
		v.advance()
		w := v.waiting[0]
		w.advance(v.given)
		done := heap.Pop(&w.answers).(answer).done
		if len(w.answers) > 0 {
			w.plan()
			heap.Fix(&v.waiting, 0)
		} else {
			heap.Pop(&v.waiting)
			delete(v.of, w.who)
		}
		v.next()
		done()
	})
}

type answers []answer

func (a answers) Len() int           { return len(a) }
func (a answers) Less(i, j int) bool { return a[i].end < a[j].end }
func (a answers) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *answers) Push(x any)        { *a = append(*a, x.(answer)) }
func (a *answers) Pop() any {
	l := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return l
}

type shares []*share

func (s shares) Len() int           { return len(s) }
func (s shares) Less(i, j int) bool { return s[i].due < s[j].due }
func (s shares) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].index, s[j].index = i, j
}
func (s *shares) Push(x any) {
	w := x.(*share)
	w.index = len(*s)
	*s = append(*s, w)
}
func (s *shares) Pop() any {
	l := (*s)[len(*s)-1]
	*s = (*s)[:len(*s)-1]
	return l
}
