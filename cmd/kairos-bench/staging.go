package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node"
	"github.com/kairos-buildkit/kairos/release/blocks"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/verity"
)

// largeLayer is the size of the largest blob that is measured: of a layer of 4 GiB that does not compress.
const largeLayer = 4 << 30

// generated is the data of a blob: blocks that are all different, and that take no room. Blobs of different variants
// have every other run of 64 blocks in common.
type generated struct {
	variant uint64
	tree    io.ReaderAt // behind the data; it is at the place that it has in the blob
}

func (g generated) ReadAt(p []byte, off int64) (int, error) {
	if off >= largeLayer {
		return g.tree.ReadAt(p, off-largeLayer)
	}
	clear(p)
	for at := (off + 7) / 8 * 8; at+8 <= off+int64(len(p)); at += 8 {
		if at%verity.BlockSize == 0 {
			n := uint64(at / verity.BlockSize)
			if n/64%2 == 1 {
				n |= g.variant << 56
			}
			binary.LittleEndian.PutUint64(p[at-off:], n+1)
		}
	}
	return len(p), nil
}

// makeTree writes the tree of a blob to a file, and returns the root hash.
func (g generated) makeTree(path string) (root string, err error) {
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := verity.NewWriter(treeOnly{f})
	buf := make([]byte, 1<<20)
	for off := int64(0); off < largeLayer; off += int64(len(buf)) {
		if _, err := g.ReadAt(buf, off); err != nil {
			return "", err
		}
		if _, err := w.WriteAt(buf, off); err != nil {
			return "", err
		}
	}
	root, _, err = w.Finish(largeLayer)
	return root, err
}

// treeOnly drops the data.
type treeOnly struct{ *os.File }

func (t treeOnly) WriteAt(p []byte, off int64) (int, error) {
	if off < largeLayer {
		return len(p), nil
	}
	return t.File.WriteAt(p, off-largeLayer)
}

// staging measures what it takes a node to have a layer of 4 GiB, half of which is here.
func (b *bench) staging(ctx context.Context) (err error) {
	dir, err := filepath.Abs(filepath.Join(b.dir, "staging"))
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var roots []string
	for i := range 2 {
		// By another process: what this one has in memory would count as the other's, when it starts that.
		if _, err := process(ctx, "", self, "make-tree", fmt.Sprint(i), treeFile(dir, i)); err != nil {
			return err
		}
		root, err := os.ReadFile(treeFile(dir, i) + ".root")
		if err != nil {
			return err
		}
		roots = append(roots, string(root))
	}
	addr, stop, err := serveGenerated(treeFile(dir, 1))
	if err != nil {
		return err
	}
	defer stop()
	var t strings.Builder
	fmt.Fprintf(&t, "%s.\n\n", machine())
	t.WriteString("| a layer of 4 GiB | CPU seconds | seconds | peak MB | MB on disk, of the blob's |\n" +
		"|---|--:|--:|--:|--:|\n")
	for _, row := range []struct{ name, local string }{
		{"nothing of it is here", ""}, {"half of it is here", roots[0]},
	} {
		state := filepath.Join(dir, "state")
		c, err := process(ctx, "", self, "stage-generated", addr, state, roots[1], treeFile(dir, 0), row.local)
		if err != nil {
			return err
		}
		on, err := diskUsage(state)
		if err := errors.Join(err, os.RemoveAll(state)); err != nil {
			return err
		}
		fmt.Fprintf(&t, "| %s | %.1f | %.1f | %.0f | %.1f of %.1f |\n",
			row.name, c.cpu, c.seconds, mb(c.memory), mb(on), mb(verity.TotalSize(largeLayer)))
	}
	return b.replace("staging", t.String())
}

func treeFile(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("tree-%d", i)) }

// makeTree is a process of its own.
func makeTree(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: kairos-bench make-tree VARIANT FILE")
	}
	var variant uint64
	if _, err := fmt.Sscan(args[0], &variant); err != nil {
		return err
	}
	root, err := generated{variant: variant}.makeTree(args[1])
	return errors.Join(err, os.WriteFile(args[1]+".root", []byte(root), 0o644))
}

// serveGenerated serves the second variant as any blob of a registry on loopback.
func serveGenerated(tree string) (addr string, stop func(), err error) {
	f, err := os.Open(tree)
	if err != nil {
		return "", nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Close()
		return "", nil, err
	}
	size := verity.TotalSize(largeLayer)
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(generated{1, f}, 0, size))
		},
	)}
	go func() { _ = s.Serve(l) }() // it ends with Close
	return l.Addr().String(), func() { s.Close(); f.Close() }, nil
}

// stageGenerated fetches the second variant into a store as a node does, as a process of its own. local is the root
// hash of the first, whose tree is in a file, or "".
func stageGenerated(ctx context.Context, args []string) error {
	if len(args) != 5 {
		return errors.New("usage: kairos-bench stage-generated ADDR DIR ROOT TREE LOCAL")
	}
	debug.SetGCPercent(node.GCPercent) // as kairos-apply does
	addr, dir, root, tree, local := args[0], args[1], args[2], args[3], args[4]
	from, err := registry.At(ctx, addr+"/os:v2", registry.Options{AuthFiles: []string{}})
	if err != nil {
		return err
	}
	desc := ocispec.Descriptor{Digest: digest.FromString("generated"), Size: verity.TotalSize(largeLayer)}
	remote := func(ctx context.Context, off, n int64) (io.ReadCloser, error) { return from.Range(ctx, desc, off, n) }
	var locals []blocks.Local
	if local != "" {
		f, err := os.Open(tree)
		if err != nil {
			return err
		}
		defer f.Close()
		locals = []blocks.Local{{
			Layer: layout.Layer{Size: largeLayer, RootHash: local}, ReaderAt: generated{tree: f},
		}}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	layer := layout.Layer{
		DiffID: layout.Digest("sha256:" + string(bytes.Repeat([]byte("a"), 64))), Size: largeLayer, RootHash: root,
	}
	plan, err := blocks.Look(ctx, layer, remote, locals)
	if err != nil {
		return err
	}
	_, err = store.New(dir).WriteBlob(ctx, layer, func(w *store.BlobWriter) error {
		_, err := plan.Write(ctx, remote, w, nil)
		return err
	})
	return err
}

// diskUsage returns the bytes of the disk that a folder's files take.
func diskUsage(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n, err := allocated(path)
		total += n
		return err
	})
	return total, err
}
