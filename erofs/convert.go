package erofs

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
)

const (
	// readBuffer is how much of the archive is read at once.
	readBuffer = 1 << 18
	// chunkMemory bounds the memory for chunks on their way, and with it the number of workers:
	// 32 at zstd's default level, 6 at its highest.
	chunkMemory = 24 << 20
)

// FormatVersion changes whenever Convert makes other bytes of the same input. It is part
// of what a cache of images must be keyed by.
const FormatVersion = 3

// Compression names how files' contents are stored.
type Compression string

const (
	None Compression = "none" // any kernel with EROFS
	LZ4  Compression = "lz4"  // CONFIG_EROFS_FS_ZIP
	Zstd Compression = "zstd" // CONFIG_EROFS_FS_ZIP_ZSTD, Linux 6.10 and later
)

// Options choose how an image is made. The zero value makes an uncompressed image.
type Options struct {
	Compression Compression // "" is None
	Level       int         // of Compression; 0 is its default
	Workers     int         // at most so many compress at a time; 0: as many as there are CPUs
	// MaxContent bounds the bytes of a layer: of its archive, and of its files in all, holes included. An
	// archive of some kilobytes may claim exabytes. 0: 256 GiB. The error is a [*ContentError].
	MaxContent int64
	// Budget bounds the same of several layers; nil: nothing does.
	Budget *Budget
}

// ErrUnsupported is what Convert and the reader return for what they do not know.
var ErrUnsupported = errors.New("not supported")

// Convert makes an EROFS image of a layer, an uncompressed tar archive, and returns the
// image's size in bytes, a multiple of 4096. It reads tar to its end.
//
// dst gets every block of 4096 bytes exactly once, in calls of whole blocks at
// multiples of 4096, never two at a time; block 0 comes last. Memory is bounded but for
// what is kept of each entry, some 250 bytes and its name.
//
// The image depends on the archive, Compression and Level, and on nothing else: bounds decide only whether there is
// one.
func Convert(ctx context.Context, dst io.WriterAt, tar io.Reader, o Options) (size int64, err error) {
	size, err = convert(ctx, dst, tar, o)
	if err != nil {
		return 0, fmt.Errorf("convert layer to EROFS: %w", err)
	}
	return size, nil
}

func convert(ctx context.Context, dst io.WriterAt, tar io.Reader, o Options) (int64, error) {
	c, err := newCodec(o.Compression, o.Level)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sum := sha256.New()
	out := newBlocks(dst, sum)
	sb := &superblock{}
	if c == nil {
		err = fill(ctx, out, tar, sb, o)
	} else {
		err = fillCompressed(ctx, cancel, out, tar, sb, c, o)
	}
	size, closeErr := out.close()
	if err = cmp.Or(closeErr, err); err != nil {
		return 0, err
	}
	sb.blocks = uint32(size >> blockBits)
	copy(sb.uuid[:], sum.Sum(nil))
	sb.uuid[6] = sb.uuid[6]&0x0f | 0x80 // RFC 9562, version 8: of our own making
	sb.uuid[8] = sb.uuid[8]&0x3f | 0x80
	if _, err := dst.WriteAt(sb.block(), 0); err != nil {
		return 0, err
	}
	return size, nil
}

// fill writes everything but the first block.
func fill(ctx context.Context, out *blocks, tar io.Reader, sb *superblock, o Options) error {
	b := o.bounds()
	t, err := readTar(ctx, bufio.NewReaderSize(b.reader(tar), readBuffer), &plainStore{out: out}, b)
	if err != nil {
		return err
	}
	return writeMeta(out, t.plan(), sb)
}

func fillCompressed(
	ctx context.Context,
	cancel context.CancelCauseFunc,
	out *blocks,
	tar io.Reader,
	sb *superblock,
	c *codec,
	o Options,
) error {
	workers := o.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	z := newZipStore(out, *c, min(workers, max(1, chunkMemory/(4*c.most))), cancel)
	b := o.bounds()
	t, err := readTar(ctx, bufio.NewReaderSize(b.reader(tar), readBuffer), z, b)
	data, size := z.finish(err == nil)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	nodes := t.plan()
	if size > 0 {
		// It has no name, and so no metadata that anyone could see.
		packed := &node{mode: modeRegular, nlink: 1, size: size, data: data}
		nodes = append(nodes, packed)
		sb.packed = packed
	}
	sb.algorithms, sb.record = 1<<c.algorithm, c.record
	return writeMeta(out, nodes, sb)
}
