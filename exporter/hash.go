package exporter

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
)

// asideHash is a SHA-256 that another core computes while this one goes on writing.
type asideHash struct {
	hash   hash.Hash
	filled chan []byte
	empty  chan []byte
	done   chan struct{}
}

func newAsideHash() *asideHash {
	const buffers, size = 4, 1 << 20
	h := &asideHash{
		hash:   sha256.New(),
		filled: make(chan []byte, buffers),
		empty:  make(chan []byte, buffers),
		done:   make(chan struct{}),
	}
	for range buffers {
		h.empty <- make([]byte, size)
	}
	go func() {
		defer close(h.done)
		for b := range h.filled {
			h.hash.Write(b)
			h.empty <- b[:cap(b)]
		}
	}()
	return h
}

func (h *asideHash) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		b := <-h.empty
		n := copy(b, rest)
		rest = rest[n:]
		h.filled <- b[:n]
	}
	return len(p), nil
}

// close ends the hash and returns it in hex. It is called once, after the last Write.
func (h *asideHash) close() string {
	close(h.filled)
	<-h.done
	return hex.EncodeToString(h.hash.Sum(nil))
}
