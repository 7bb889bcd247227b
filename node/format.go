package node

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// formatOf returns the compression that an image's labels say its kernel reads, or "".
func formatOf(labels map[string]string) string {
	if c := labels[layout.ImageLabelCompression]; layout.CompressionRank(c) >= 0 {
		return c
	}
	f, _ := layout.ParseFormat(labels[layout.ImageLabelFormat])
	return f.Compression
}

// compressionFor chooses how a node compresses what it fetches: as the image's labels say, else
// as the running kernel reads it. The kernel that will read it is only known when the layers
// are there.
func compressionFor(labels map[string]string) erofs.Compression {
	if c := formatOf(labels); c != "" {
		return erofs.Compression(c)
	}
	return runningCompression()
}

// runningCompression is what the running kernel reads: the next one is not older, as a rule.
// For one that is, see readable.
func runningCompression() erofs.Compression {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "none"
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return "none"
	}
	if major > 6 || major == 6 && minor >= 10 {
		return "zstd"
	}
	return "lz4"
}

// readable refuses layers of a store that a kernel cannot read, which knows a compression and those
// below it. They are shared with releases whose kernels do, and cannot be had twice.
func readable(s *store.Store, layers []layout.Layer, kernel, can string) error {
	for _, l := range layers {
		c, err := s.Compression(l)
		if err != nil {
			return err
		}
		if layout.CompressionRank(string(c)) > layout.CompressionRank(can) {
			return refuse(
				"layer %s is in the store compressed with %s, and %s reads %s at most: install this image afresh, "+
					"or build it with a newer kernel",
				l.DiffID.Short(),
				c,
				kernel,
				can,
			)
		}
	}
	return nil
}

// readableBefore refuses, before anything is fetched, an image whose label says that its kernel
// cannot read the layers that the store has already.
func readableBefore(s *store.Store, img *source.Image) error {
	can := formatOf(img.Config.Config.Labels)
	if can == "" {
		return nil
	}
	var have []layout.Layer
	for _, l := range img.Layers {
		layer, ok, err := s.Layer(l.DiffID)
		if err != nil {
			return err
		}
		if ok {
			have = append(have, layer)
		}
	}
	return readable(s, have, "the image's kernel", can)
}

// listed returns the format of each layer that a release of this node lists, zero where that is not known.
func (m *Machine) listed() (map[layout.Layer]layout.Format, error) {
	formats := map[layout.Layer]layout.Format{}
	for _, s := range []*store.Store{m.State, m.Recovery} {
		if s == nil {
			continue
		}
		found, err := s.Releases()
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			for _, l := range f.Release.Layers {
				if formats[l] == (layout.Format{}) {
					formats[l] = f.Release.Format
				}
			}
		}
	}
	return formats, nil
}

// formatIn returns the format of all of a release's layers, zero where they have not all the same. listed are those
// that releases listed before it was staged: every other one was made just now.
func (m *Machine) formatIn(
	s *store.Store,
	r layout.Release,
	listed map[layout.Layer]layout.Format,
) (layout.Format, error) {
	var all layout.Format
	for i, l := range r.Layers {
		f, ok := listed[l]
		if !ok {
			c, err := s.Compression(l)
			if err != nil {
				return all, err
			}
			f = layout.Format{Compression: string(c), Version: erofs.FormatVersion}
		}
		if i > 0 && f != all {
			return layout.Format{}, nil
		}
		all = f
	}
	return all, nil
}
