package fat

import (
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/sparse"
)

// besideCluster is the cluster size of a volume with a file beside its own: EROFS's block, so that what both have
// in common falls on the same borders.
const besideCluster = 4096

// run is a part of a file, in whole clusters but for the file's end: clusters of its own, or of the file
// beside the volume's.
type run struct {
	at, size int64 // in the file
	beside   int64 // offset in the file beside; -1: its own
}

// runs finds what the files have in common with the file beside them. Each cluster has one successor in the
// FAT, so each of those is used once.
func (f FileSystem) runs(root *filetree.Node) (map[*filetree.Node][]run, error) {
	if f.Beside == nil {
		return nil, nil
	}
	var sums [][sha256.Size]byte
	free := map[[sha256.Size]byte]int{} // a cluster with this content that nothing uses
	if err := hashClusters(*f.Beside, func(sum [sha256.Size]byte) {
		free[sum] = len(sums)
		sums = append(sums, sum)
	}); err != nil {
		return nil, err
	}
	used := make([]bool, len(sums))
	all := map[*filetree.Node][]run{}
	var failed error
	root.Walk(func(n *filetree.Node) {
		if n.IsDir() || n.Size == 0 || failed != nil {
			return
		}
		var list []run
		add := func(r run) {
			if i := len(list) - 1; i >= 0 && (list[i].beside < 0) == (r.beside < 0) &&
				(r.beside < 0 || r.beside == list[i].beside+list[i].size) {
				list[i].size += r.size
				return
			}
			list = append(list, r)
		}
		at, next := int64(0), -1
		failed = hashClusters(n.File, func(sum [sha256.Size]byte) {
			r := run{at: at, size: besideCluster, beside: -1}
			i, ok := next, next >= 0 && next < len(sums) && sums[next] == sum && !used[next]
			if !ok {
				i, ok = free[sum]
			}
			next = -1
			if ok && !used[i] {
				used[i], next = true, i+1
				r.beside = int64(i) * besideCluster
			}
			add(r)
			at += besideCluster
		})
		if at < n.Size {
			add(run{at: at, size: n.Size - at, beside: -1})
		}
		all[n] = list
	})
	return all, failed
}

// runsOf returns what a file or folder is made of.
func runsOf(runs map[*filetree.Node][]run, n *filetree.Node) []run {
	switch {
	case n.IsDir():
		return []run{{size: folderSize(n), beside: -1}}
	case runs != nil:
		return runs[n]
	}
	return []run{{size: n.Size, beside: -1}}
}

// hashClusters calls do for each whole cluster of a file.
func hashClusters(f filetree.File, do func([sha256.Size]byte)) error {
	r, err := f.Open()
	if err != nil {
		return fmt.Errorf("read %s: %w", f.Path, err)
	}
	defer r.Close()
	buf := make([]byte, 64*besideCluster)
	for left := f.Size / besideCluster * besideCluster; left > 0; {
		b := buf[:min(left, int64(len(buf)))]
		if _, err := io.ReadFull(r, b); err != nil {
			return fmt.Errorf("read %s: %w", f.Path, err)
		}
		left -= int64(len(b))
		for ; len(b) > 0; b = b[besideCluster:] {
			do(sha256.Sum256(b[:besideCluster]))
		}
	}
	return nil
}

// content is the run's own content.
func (r run) content(f filetree.File) sparse.Extent {
	if r.size == f.Size {
		return f.Extent()
	}
	return sparse.Extent{Size: r.size, Name: f.Path, Open: func() (io.ReadCloser, error) {
		rc, err := f.Open()
		if err != nil {
			return nil, err
		}
		if _, err := io.CopyN(io.Discard, rc, r.at); err != nil {
			rc.Close()
			return nil, err
		}
		return struct {
			io.Reader
			io.Closer
		}{io.LimitReader(rc, r.size), rc}, nil
	}}
}
