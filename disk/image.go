package disk

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
)

// Image is a medium that has been laid out: Size bytes, of which extents hold content and all
// the others are zero.
type Image struct {
	Size    int64
	extents []extent
	files   map[string][]Part // of a file system
}

// Part is a part of a file in an image, in bytes.
type Part struct{ At, Size int64 }

// extent is content at an offset. It is opened when it is written.
type extent struct {
	at, size int64
	name     string
	open     func() (io.ReadCloser, error) // nil: zeros that matter, see WriteOver
}

func (m *Image) add(at int64, e extent) {
	if e.size > 0 {
		e.at = at
		m.extents = append(m.extents, e)
	}
}

func (m *Image) addBytes(at int64, name string, b []byte) {
	m.add(at, Bytes(name, b).extent())
}

// addZero says that there must be zeros, on a device with old content too.
func (m *Image) addZero(at, size int64) { m.add(at, extent{size: size, name: "zeros"}) }

// zeroGapsIn says that what has no content in a range must be zero.
func (m *Image) zeroGapsIn(from, size int64) error {
	extents, err := m.sorted()
	if err != nil {
		return err
	}
	at, end := from, from+size
	var gaps []extent
	for _, e := range extents {
		if e.at+e.size <= at || e.at >= end {
			continue
		}
		gaps = append(gaps, extent{at: at, size: e.at - at})
		at = e.at + e.size
	}
	for _, g := range append(gaps, extent{at: at, size: end - at}) {
		m.addZero(g.at, g.size)
	}
	return nil
}

// lazyBytes is content that is made when it is written.
func lazyBytes(name string, size int64, make func() []byte) extent {
	return extent{size: size, name: name, open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(make())), nil
	}}
}

// addPart notes where the next part of a file is.
func (m *Image) addPart(name string, p Part) {
	if m.files == nil {
		m.files = map[string][]Part{}
	}
	m.files[name] = append(m.files[name], p)
}

// Parts returns where size bytes at an offset of a file are in the image of a file system, in their order in
// the file; nothing, where there is no such file or it is shorter.
func (m *Image) Parts(name string, at, size int64) []Part {
	var parts []Part
	for _, p := range m.files[name] {
		if at >= p.Size {
			at -= p.Size
			continue
		}
		n := min(p.Size-at, size)
		if last := len(parts) - 1; last >= 0 && parts[last].At+parts[last].Size == p.At+at {
			parts[last].Size += n
		} else if n > 0 {
			parts = append(parts, Part{p.At + at, n})
		}
		at, size = 0, size-n
	}
	if size > 0 {
		return nil
	}
	return parts
}

// AddImage places another image's content at an offset.
func (m *Image) AddImage(at int64, sub *Image) {
	for _, e := range sub.extents {
		m.add(at+e.at, e)
	}
}

// sorted returns the extents in their order on the medium. Extents that meet are a
// mistake in a layout, and would be silent corruption on the medium.
func (m *Image) sorted() ([]extent, error) {
	slices.SortFunc(m.extents, func(a, b extent) int { return cmp.Compare(a.at, b.at) })
	end := int64(0)
	for _, e := range m.extents {
		if e.at < end || e.at+e.size > m.Size {
			return nil, fmt.Errorf(
				"lay out medium: %s at %d+%d overlaps or exceeds the medium's %d bytes",
				e.name,
				e.at,
				e.size,
				m.Size,
			)
		}
		end = e.at + e.size
	}
	return m.extents, nil
}

// copyBuffer is the size of one write to the medium: large, for speed on disks.
const copyBuffer = 1 << 20

// WriteTo writes the whole image to a stream, with the zeros.
func (m *Image) WriteTo(ctx context.Context, w io.Writer) error {
	extents, err := m.sorted()
	if err != nil {
		return err
	}
	buf, zero := make([]byte, copyBuffer), make([]byte, copyBuffer)
	pos := int64(0) // where w is
	fill := func(to int64) error {
		for pos < to {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := w.Write(zero[:min(to-pos, copyBuffer)])
			if err != nil {
				return err
			}
			pos += int64(n)
		}
		return nil
	}
	for _, e := range extents {
		if e.open == nil {
			continue
		}
		if err := fill(e.at); err != nil {
			return err
		}
		if err := e.copy(ctx, w, buf); err != nil {
			return err
		}
		pos += e.size
	}
	return fill(m.Size)
}

// WriteSparse writes the image at an offset into a file or device that reads as zero there. Of
// the content, blocks of 4 KiB that are all zero are left out too.
func (m *Image) WriteSparse(ctx context.Context, w io.WriterAt, at int64) error {
	return m.writeAt(ctx, func(e extent) io.Writer {
		if e.open == nil {
			return nil
		}
		return &sparseWriter{w, at + e.at}
	})
}

// WriteOver writes the image at an offset into a device with old content. What is neither
// content nor has to be zero is left as it is: free space of file systems.
func (m *Image) WriteOver(ctx context.Context, w io.WriterAt, at int64) error {
	return m.writeAt(ctx, func(e extent) io.Writer { return io.NewOffsetWriter(w, at+e.at) })
}

// writeAt writes the extents to the writers that to gives for them; nil leaves one out.
func (m *Image) writeAt(ctx context.Context, to func(extent) io.Writer) error {
	extents, err := m.sorted()
	if err != nil {
		return err
	}
	buf := make([]byte, copyBuffer)
	for _, e := range extents {
		w := to(e)
		if w == nil {
			continue
		}
		if e.open == nil {
			e.open = func() (io.ReadCloser, error) { return io.NopCloser(io.LimitReader(zeros{}, e.size)), nil }
		}
		if err := e.copy(ctx, w, buf); err != nil {
			return err
		}
	}
	return nil
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// copy writes the extent's content, which must have exactly the size that was laid out.
func (e extent) copy(ctx context.Context, w io.Writer, buf []byte) error {
	r, err := e.open()
	if err != nil {
		return fmt.Errorf("read %s: %w", e.name, err)
	}
	defer r.Close()
	for left := e.size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf[:min(left, int64(len(buf)))])
		if err != nil {
			return fmt.Errorf("read %s: %d of %d bytes are missing: %w", e.name, left-int64(n), e.size, err)
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	if n, err := io.ReadFull(r, buf[:1]); n > 0 || err != io.EOF {
		if n > 0 {
			err = fmt.Errorf("more than the %d bytes that were laid out", e.size)
		}
		return fmt.Errorf("read %s: %w", e.name, err)
	}
	return nil
}

// NewSparseWriter returns a writer that leaves out blocks which are all zero. What w holds
// there has to read as zero, and its size is for the caller to set at the end.
func NewSparseWriter(w io.WriterAt) io.Writer { return &sparseWriter{w: w} }

// sparseWriter writes what is not zero.
type sparseWriter struct {
	w  io.WriterAt
	at int64
}

const sparseBlock = 4096

var zeroBlock [sparseBlock]byte

func (s *sparseWriter) Write(b []byte) (int, error) {
	total := len(b)
	for len(b) > 0 {
		n := dataRun(b)
		if n > 0 {
			if _, err := s.w.WriteAt(b[:n], s.at); err != nil {
				return total - len(b), err
			}
		}
		skip := n + zeroRun(b[n:])
		s.at += int64(skip)
		b = b[skip:]
	}
	return total, nil
}

// dataRun returns the length of b's beginning up to the first block that is all zero.
func dataRun(b []byte) int {
	n := 0
	for n < len(b) && !isZero(b[n:min(n+sparseBlock, len(b))]) {
		n = min(n+sparseBlock, len(b))
	}
	return n
}

// zeroRun returns the length of the blocks at b's beginning that are all zero.
func zeroRun(b []byte) int {
	n := 0
	for n < len(b) && isZero(b[n:min(n+sparseBlock, len(b))]) {
		n = min(n+sparseBlock, len(b))
	}
	return n
}

func isZero(b []byte) bool { return bytes.Equal(b, zeroBlock[:len(b)]) }

// align rounds n up to a multiple of to.
func align(n, to int64) int64 { return (n + to - 1) / to * to }
