package erofs

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Compression algorithms of the format.
const (
	algorithmLZ4  = 0
	algorithmZstd = 3
)

// codec is a way to compress.
type codec struct {
	algorithm uint8
	small     int    // bytes of the smallest file that has pclusters of its own
	chunk     int    // bytes of a file in one pcluster
	most      int    // bytes in the last one
	record    []byte // what the superblock says of it
	new       func() compressor
}

// compressor appends the compressed form of src to dst. It may return less than that
// where compression does not pay.
type compressor interface {
	compress(dst, src []byte) []byte
}

// Levels of zstd, with what they are made of. A level in between is the one below it.
//
// The chunk trades size for the time to read a few bytes: the kernel decompresses from a
// chunk's start. A pcluster may have 1 MiB at most. 128 KiB is what squashfs has, and reads
// as fast at random; level 2 is as small as level 3 and takes two thirds of its time, but
// reads at random at half the speed.
var zstdLevels = []struct {
	level       int
	speed       zstd.EncoderLevel
	chunk, most int
}{
	{15, zstd.SpeedBetterCompression, 768 << 10, 1 << 20},
	{9, zstd.SpeedBetterCompression, 256 << 10, 384 << 10},
	{6, zstd.SpeedDefault, 256 << 10, 384 << 10},
	{3, zstd.SpeedDefault, 128 << 10, 192 << 10},
	{2, zstd.SpeedFastest, 256 << 10, 384 << 10},
	{1, zstd.SpeedFastest, 128 << 10, 192 << 10},
}

const (
	defaultZstdLevel  = 3
	lz4Chunk, lz4Most = 128 << 10, 192 << 10
)

// newCodec returns the codec for a compression, nil for none.
func newCodec(c Compression, level int) (*codec, error) {
	switch c {
	case "", None:
		if level != 0 {
			return nil, fmt.Errorf("compression none has no level %d", level)
		}
		return nil, nil
	case LZ4:
		if level < 0 || level > 9 {
			return nil, fmt.Errorf("lz4 level %d: want 0 (fast) or 1 to 9 (high compression)", level)
		}
		return lz4Codec(level), nil
	case Zstd:
		if level == 0 {
			level = defaultZstdLevel
		}
		for _, l := range zstdLevels {
			if level >= l.level {
				return zstdCodec(l.speed, l.chunk, l.most), nil
			}
		}
		return nil, fmt.Errorf("zstd level %d: want 1 to 15, or 0 for %d", level, defaultZstdLevel)
	}
	return nil, fmt.Errorf("compression %q: want %s, %s or %s", c, None, LZ4, Zstd)
}

func zstdCodec(speed zstd.EncoderLevel, chunk, most int) *codec {
	window := bits.Len(uint(most - 1)) // 20, the kernel's limit, for 1 MiB
	record := []byte{0, byte(window - 10), 0, 0, 0, 0}
	return &codec{
		algorithm: algorithmZstd,
		small:     chunk / 2,
		chunk:     chunk,
		most:      most,
		record:    record,
		new: func() compressor {
			// One chunk is one frame of one segment: no window that the kernel would have to
			// copy from, and no checksum, since dm-verity has one for every block.
			e, err := zstd.NewWriter(
				nil,
				zstd.WithEncoderLevel(speed),
				zstd.WithEncoderConcurrency(1),
				zstd.WithEncoderCRC(false),
				zstd.WithSingleSegment(true),
				zstd.WithWindowSize(1<<window),
			)
			if err != nil {
				panic(err) // options that cannot be
			}
			return zstdCompressor{e}
		},
	}
}

type zstdCompressor struct{ e *zstd.Encoder }

func (z zstdCompressor) compress(dst, src []byte) []byte { return z.e.EncodeAll(src, dst) }

func lz4Codec(level int) *codec {
	record := make([]byte, 14)
	binary.LittleEndian.PutUint16(record[0:], 65535)
	binary.LittleEndian.PutUint16(record[2:], uint16(blocksOf(lz4Most)))
	return &codec{
		algorithm: algorithmLZ4,
		small:     lz4Chunk / 2,
		chunk:     lz4Chunk,
		most:      lz4Most,
		record:    record,
		new: func() compressor {
			if level == 0 {
				return &lz4Compressor{}
			}
			return &lz4Compressor{hc: &lz4.CompressorHC{Level: lz4.CompressionLevel(1 << (8 + level))}}
		},
	}
}

type lz4Compressor struct {
	fast lz4.Compressor
	hc   *lz4.CompressorHC
}

func (z *lz4Compressor) compress(dst, src []byte) []byte {
	if cap(dst) < len(src) {
		dst = make([]byte, 0, len(src))
	}
	var n int
	var err error
	if z.hc != nil {
		n, err = z.hc.CompressBlock(src, dst[:len(src)])
	} else {
		n, err = z.fast.CompressBlock(src, dst[:len(src)])
	}
	if err != nil { // it does not fit
		n = 0
	}
	return dst[:n]
}

// looksRandom says whether data is not worth trying to compress: kernel modules, archives
// and pictures, which are compressed already, make up much of an operating system. It counts
// how often each byte occurs in samples, and compares that with chance (a chi-squared test
// with 255 degrees of freedom: mean 255, standard deviation 23).
func looksRandom(b []byte) bool {
	const (
		samples, length = 16, 1024
		expected        = samples * length / 256
		limit           = 255 + 4*23
	)
	if len(b) < samples*length {
		return false
	}
	var count [256]int
	for i := range samples {
		at := i * ((len(b) - length) / (samples - 1))
		for _, c := range b[at : at+length] {
			count[c]++
		}
	}
	squares := 0
	for _, n := range count {
		squares += (n - expected) * (n - expected)
	}
	return squares < limit*expected
}
