// Package sparse is a medium that has been laid out: what lies where on it, before a byte is written.
//
// A writer of a file system or of a table adds extents at known offsets, each opened and read once, when it is
// written; between them the medium is zero. So a medium's size and places need only the names and sizes of its files,
// and a medium within another one is its extents, moved.
package sparse

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
	extents []Extent
	files   map[string][]Part // of a file system
}

// Part is a part of a file in an image, in bytes.
type Part struct{ At, Size int64 }

// Extent is content at an offset, both in bytes. It is opened when it is written.
type Extent struct {
	At, Size int64
	Name     string                        // for errors
	Open     func() (io.ReadCloser, error) // delivers Size bytes; nil: zeros that matter, see [Image.WriteOver]
}

// Add places an extent at an offset. One of no size is nothing.
func (m *Image) Add(at int64, e Extent) {
	if e.Size > 0 {
		e.At = at
		m.extents = append(m.extents, e)
	}
}

// AddBytes places content that is in memory.
func (m *Image) AddBytes(at int64, name string, b []byte) {
	m.Add(at, Extent{Size: int64(len(b)), Name: name, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b)), nil
	}})
}

// AddZero says that there must be zeros, on a device with old content too.
func (m *Image) AddZero(at, size int64) { m.Add(at, Extent{Size: size, Name: "zeros"}) }

// ZeroGaps says that what has no content in a range must be zero.
func (m *Image) ZeroGaps(from, size int64) error {
	extents, err := m.Extents()
	if err != nil {
		return err
	}
	at, end := from, from+size
	var gaps []Extent
	for _, e := range extents {
		if e.At+e.Size <= at || e.At >= end {
			continue
		}
		gaps = append(gaps, Extent{At: at, Size: e.At - at})
		at = e.At + e.Size
	}
	for _, g := range append(gaps, Extent{At: at, Size: end - at}) {
		m.AddZero(g.At, g.Size)
	}
	return nil
}

// AddPart notes where the next part of a file is.
func (m *Image) AddPart(name string, p Part) {
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
		m.Add(at+e.At, e)
	}
}

// Extents returns the extents in their order on the medium. Extents that meet are a
// mistake in a layout, and would be silent corruption on the medium.
func (m *Image) Extents() ([]Extent, error) {
	slices.SortFunc(m.extents, func(a, b Extent) int { return cmp.Compare(a.At, b.At) })
	end := int64(0)
	for _, e := range m.extents {
		if e.At < end || e.At+e.Size > m.Size {
			return nil, fmt.Errorf(
				"lay out medium: %s at %d+%d overlaps or exceeds the medium's %d bytes",
				e.Name,
				e.At,
				e.Size,
				m.Size,
			)
		}
		end = e.At + e.Size
	}
	return m.extents, nil
}

// copyBuffer is the size of one write to the medium: large, for speed on disks.
const copyBuffer = 1 << 20

// WriteTo writes the whole image to a stream, with the zeros.
func (m *Image) WriteTo(ctx context.Context, w io.Writer) error {
	extents, err := m.Extents()
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
		if e.Open == nil {
			continue
		}
		if err := fill(e.At); err != nil {
			return err
		}
		if err := e.copy(ctx, w, buf); err != nil {
			return err
		}
		pos += e.Size
	}
	return fill(m.Size)
}

// WriteSparse writes the image at an offset into a file or device that reads as zero there. Of
// the content, blocks of 4 KiB that are all zero are left out too.
func (m *Image) WriteSparse(ctx context.Context, w io.WriterAt, at int64) error {
	return m.writeAt(ctx, func(e Extent) io.Writer {
		if e.Open == nil {
			return nil
		}
		return &writer{w, at + e.At}
	})
}

// WriteOver writes the image at an offset into a device with old content. What is neither
// content nor has to be zero is left as it is: free space of file systems.
func (m *Image) WriteOver(ctx context.Context, w io.WriterAt, at int64) error {
	return m.writeAt(ctx, func(e Extent) io.Writer { return io.NewOffsetWriter(w, at+e.At) })
}

// writeAt writes the extents to the writers that to gives for them; nil leaves one out.
func (m *Image) writeAt(ctx context.Context, to func(Extent) io.Writer) error {
	extents, err := m.Extents()
	if err != nil {
		return err
	}
	buf := make([]byte, copyBuffer)
	for _, e := range extents {
		w := to(e)
		if w == nil {
			continue
		}
		if e.Open == nil {
			e.Open = func() (io.ReadCloser, error) { return io.NopCloser(io.LimitReader(zeros{}, e.Size)), nil }
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
func (e Extent) copy(ctx context.Context, w io.Writer, buf []byte) error {
	r, err := e.Open()
	if err != nil {
		return fmt.Errorf("read %s: %w", e.Name, err)
	}
	defer r.Close()
	for left := e.Size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf[:min(left, int64(len(buf)))])
		if err != nil {
			return fmt.Errorf("read %s: %d of %d bytes are missing: %w", e.Name, left-int64(n), e.Size, err)
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	if n, err := io.ReadFull(r, buf[:1]); n > 0 || err != io.EOF {
		if n > 0 {
			err = fmt.Errorf("more than the %d bytes that were laid out", e.Size)
		}
		return fmt.Errorf("read %s: %w", e.Name, err)
	}
	return nil
}

// NewWriter returns a writer that leaves out blocks which are all zero. What w holds
// there has to read as zero, and its size is for the caller to set at the end.
func NewWriter(w io.WriterAt) io.Writer { return &writer{w: w} }

// writer writes what is not zero.
type writer struct {
	w  io.WriterAt
	at int64
}

const blockSize = 4096

var zeroBlock [blockSize]byte

func (s *writer) Write(b []byte) (int, error) {
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
	for n < len(b) && !isZero(b[n:min(n+blockSize, len(b))]) {
		n = min(n+blockSize, len(b))
	}
	return n
}

// zeroRun returns the length of the blocks at b's beginning that are all zero.
func zeroRun(b []byte) int {
	n := 0
	for n < len(b) && isZero(b[n:min(n+blockSize, len(b))]) {
		n = min(n+blockSize, len(b))
	}
	return n
}

func isZero(b []byte) bool { return bytes.Equal(b, zeroBlock[:len(b)]) }
