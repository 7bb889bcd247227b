package layout

import (
	"fmt"
	"strconv"
	"strings"
)

// compressions are how a layer's blob may be compressed, each readable by fewer kernels than
// the one before: any with EROFS, those with CONFIG_EROFS_FS_ZIP, and those with
// CONFIG_EROFS_FS_ZIP_ZSTD (6.10 and later).
func compressions() []string { return []string{"none", "lz4", "zstd"} }

// CompressionRank orders compressions by what a kernel has to know for them, and is -1 for one that
// is not known.
func CompressionRank(compression string) int {
	for i, c := range compressions() {
		if c == compression {
			return i
		}
	}
	return -1
}

// Format is what blobs are made as, the value of [ImageLabelFormat]: "zstd-0-v2" is zstd at its
// default level, by the second version of our converter.
type Format struct {
	Compression string // one of compressions
	Level       int    // of Compression; 0 is its default
	Version     int    // of the converter: another one makes other bytes
}

// String returns the label's value.
func (f Format) String() string { return fmt.Sprintf("%s-%d-v%d", f.Compression, f.Level, f.Version) }

// ParseFormat reads the label's value, in its one spelling.
func ParseFormat(s string) (Format, error) {
	parts := strings.Split(s, "-")
	if len(parts) == 3 && CompressionRank(parts[0]) >= 0 && strings.HasPrefix(parts[2], "v") {
		level, err := strconv.Atoi(parts[1])
		version, err2 := strconv.Atoi(parts[2][1:])
		if f := (Format{parts[0], level, version}); err == nil && err2 == nil && level >= 0 && version > 0 &&
			f.String() == s {
			return f, nil
		}
	}
	return Format{}, fmt.Errorf("format %q: want one such as zstd-0-v2", s)
}
