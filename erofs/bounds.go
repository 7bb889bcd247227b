package erofs

import (
	"cmp"
	"fmt"
	"io"
	"sync/atomic"
)

const (
	defaultMaxContent = 256 << 30
	// maxNames bounds the memory for what is kept of each entry, in bytes: some million files.
	maxNames = 2 << 30
)

// Budget bounds what several layers have in all, as MaxContent of [Options] bounds what one has. Conversions that run
// at the same time may share it.
type Budget struct {
	max  int64
	left atomic.Int64
}

// NewBudget returns a budget of so many bytes.
func NewBudget(bytes int64) *Budget {
	b := &Budget{max: bytes}
	b.left.Store(bytes)
	return b
}

// ContentError says that a layer, or several in all, have more bytes than they may.
type ContentError struct{ Max int64 }

func (e *ContentError) Error() string {
	size := fmt.Sprintf("%d bytes", e.Max)
	if e.Max >= 1<<20 {
		size = fmt.Sprintf("%d MiB", e.Max>>20)
	}
	return "the image has more bytes in files, holes included, than the " + size + " that are allowed"
}

// bounds counts what a layer takes.
type bounds struct {
	max     int64   // of counted
	budget  *Budget // nil: none
	claimed int64   // by entries, in bytes: they come before their content, of which a hole has none
	read    int64   // of the archive
	counted int64   // the larger of the two, so far
	names   int64   // what is left
}

func (o Options) bounds() *bounds {
	return &bounds{max: cmp.Or(o.MaxContent, defaultMaxContent), budget: o.Budget, names: maxNames}
}

// take counts one entry. What is kept of it is its node, names and attributes.
func (b *bounds) take(content int64, names int) error {
	const node = 300
	if b.names -= int64(node + names); b.names < 0 {
		return fmt.Errorf(
			"the names and attributes of the layer's files have more than %d MiB: it is no layer of a system",
			maxNames>>20,
		)
	}
	if content > b.max-b.claimed {
		return &ContentError{b.max}
	}
	b.claimed += content
	return b.count()
}

// count takes what is new out of the budget.
func (b *bounds) count() error {
	now := max(b.claimed, b.read)
	if now > b.max {
		return &ContentError{b.max}
	}
	if b.budget != nil && b.budget.left.Add(b.counted-now) < 0 {
		return &ContentError{b.budget.max}
	}
	b.counted = now
	return nil
}

// reader counts an archive's own bytes: some kilobytes that are decompressed may be a terabyte.
func (b *bounds) reader(r io.Reader) io.Reader { return boundedReader{r, b} }

type boundedReader struct {
	io.Reader
	*bounds
}

func (r boundedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.read += int64(n)
	if e := r.count(); e != nil {
		return n, e
	}
	return n, err
}
