// Package erofstest makes layers that try everything an image must keep, and says what a
// tree is, line by line, wherever it is: read by package erofs, mounted by the kernel or
// extracted by GNU tar.
package erofstest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"strconv"
	"time"
)

// builder writes a tar archive. The first error panics: layers are code, not input.
type builder struct {
	w   io.Writer
	tar *tar.Writer
}

// When is the modification time of entries that do not have another.
var When = time.Unix(1700000000, 0).UTC()

func archive(w io.Writer, fill func(b *builder)) (err error) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(error)
			if !ok {
				panic(r)
			}
			err = e
		}
	}()
	b := &builder{w: w, tar: tar.NewWriter(w)}
	fill(b)
	return b.tar.Close()
}

func (b *builder) check(err error) {
	if err != nil {
		panic(err)
	}
}

// entry adds an entry with content.
func (b *builder) entry(h tar.Header, content []byte) {
	if h.ModTime.IsZero() {
		h.ModTime = When
	}
	h.Size, h.Format = int64(len(content)), tar.FormatPAX
	b.check(b.tar.WriteHeader(&h))
	_, err := b.tar.Write(content)
	b.check(err)
}

func (b *builder) file(name string, content []byte) {
	b.entry(tar.Header{Name: name, Mode: 0o644}, content)
}

func (b *builder) dir(name string) {
	b.entry(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, nil)
}

func (b *builder) symlink(name, target string) {
	b.entry(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

func (b *builder) link(name, target string) {
	b.entry(tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}, nil)
}

// data is a piece of a sparse file.
type data struct {
	at int64
	b  []byte
}

// sparsePAX adds a sparse file in GNU's PAX format, version 1.0: the map precedes the
// data. archive/tar reads but does not write it.
func (b *builder) sparsePAX(name string, size int64, pieces []data) {
	var m, content bytes.Buffer
	fmt.Fprintf(&m, "%d\n", len(pieces)+1)
	for _, p := range pieces {
		fmt.Fprintf(&m, "%d\n%d\n", p.at, len(p.b))
		content.Write(p.b)
	}
	fmt.Fprintf(&m, "%d\n0\n", size)
	pad(&m)
	var records bytes.Buffer
	record := func(key, value string) {
		n := len(key) + len(value) + 3
		for n != len(strconv.Itoa(n))+len(key)+len(value)+3 {
			n = len(strconv.Itoa(n)) + len(key) + len(value) + 3
		}
		fmt.Fprintf(&records, "%d %s=%s\n", n, key, value)
	}
	record("GNU.sparse.major", "1")
	record("GNU.sparse.minor", "0")
	record("GNU.sparse.name", name)
	record("GNU.sparse.realsize", strconv.FormatInt(size, 10))
	b.raw("PaxHeaders/"+name, 'x', records.Bytes(), nil)
	b.raw("GNUSparseFile.0/"+name, '0', append(m.Bytes(), content.Bytes()...), nil)
}

// sparseGNU adds a sparse file in the old GNU format: at most four pieces, in the header.
func (b *builder) sparseGNU(name string, size int64, pieces []data) {
	var content bytes.Buffer
	for _, p := range pieces {
		content.Write(p.b)
	}
	b.raw(name, 'S', content.Bytes(), func(h []byte) {
		copy(h[257:], "ustar  \x00")
		for i, p := range pieces {
			number(h[386+24*i:][:12], p.at)
			number(h[386+24*i+12:][:12], int64(len(p.b)))
		}
		number(h[483:495], size)
	})
}

// raw adds an entry whose header is made by hand.
func (b *builder) raw(name string, kind byte, content []byte, change func(h []byte)) {
	b.check(b.tar.Flush())
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x00")
	copy(h[108:], "0000000\x00")
	copy(h[116:], "0000000\x00")
	number(h[124:136], int64(len(content)))
	number(h[136:148], When.Unix())
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	if change != nil {
		change(h)
	}
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	out := bytes.NewBuffer(h)
	out.Write(content)
	pad(out)
	_, err := b.w.Write(out.Bytes())
	b.check(err)
}

func number(field []byte, n int64) { copy(field, fmt.Sprintf("%0*o", len(field)-1, n)) }

func pad(b *bytes.Buffer) { b.Write(make([]byte, (512-b.Len()%512)%512)) }
