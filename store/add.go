package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

// AddLayer makes a layer's blob from its uncompressed tar, in one pass: digest, EROFS,
// dm-verity and file at once. A tar whose digest is not diffID changes nothing and gives
// an error. Where the store has the layer already, nothing of tar is read. Where another
// process is just making it, AddLayer waits for that.
func (s *Store) AddLayer(
	ctx context.Context,
	diffID layout.Digest,
	tar io.Reader,
	o erofs.Options,
) (layout.Layer, error) {
	return s.add(ctx, diffID, adding{}, fromTar(ctx, diffID, "", tar, o))
}

// fromTar converts a layer whose root hash is known beforehand, or "".
func fromTar(ctx context.Context, diffID layout.Digest, root string, tar io.Reader, o erofs.Options) writeBlob {
	return func(w *BlobWriter) (int64, string, error) {
		digest := sha256.New()
		tee := io.TeeReader(withContext{ctx, tar}, digest)
		size, err := erofs.Convert(ctx, w, tee, o)
		if err != nil {
			return 0, "", err
		}
		// A converter may stop at the end of the archive; the digest includes what follows.
		if _, err := io.Copy(io.Discard, tee); err != nil {
			return 0, "", err
		}
		if got := hex.EncodeToString(digest.Sum(nil)); got != diffID.Hex() {
			return 0, "", &DigestError{Want: diffID, Got: layout.Digest("sha256:" + got)}
		}
		return size, root, nil
	}
}

// writeBlob gives a blob's data to w. It returns the data's size, and the root hash where that is known
// beforehand.
type writeBlob func(w *BlobWriter) (size int64, root string, err error)

// BlobWriter takes the data of a blob, each block once, by WriteAt or Keep.
type BlobWriter struct {
	*verity.Writer
	file *os.File
}

// Know tells the tree that the data of a layer has, before the first block: then there is no second one in memory.
// Data that is not the tree's changes nothing.
func (w *BlobWriter) Know(tree []byte, layer layout.Layer) (err error) {
	w.Writer, err = verity.NewWriterOf(w.file, tree, layer.Size, layer.RootHash)
	return err
}

// ReadAt reads what an earlier run that was interrupted has written. It may be anything.
func (w *BlobWriter) ReadAt(p []byte, off int64) (int, error) { return w.file.ReadAt(p, off) }

// adding says how a blob is added.
type adding struct {
	replace bool // also where the store has one
	// resume has the file of an interrupted run stay, for the next one to go on with.
	resume bool
}

// DigestError says that a layer's bytes are not those that its name promises.
type DigestError struct{ Want, Got layout.Digest }

func (e *DigestError) Error() string {
	return fmt.Sprintf("its content has the digest %s: it was changed or damaged on its way", e.Got)
}

// CopyBlob takes a layer over from another store. Its bytes are checked against the root
// hash on the way; a blob that fails the check changes nothing. Where the store has the
// layer already, maybe with another compression, that one stays and is returned.
func (s *Store) CopyBlob(ctx context.Context, layer layout.Layer, from io.ReaderAt) (layout.Layer, error) {
	return s.add(ctx, layer.DiffID, adding{}, fromBlob(ctx, layer, from))
}

// fromBlob copies the data of a blob.
func fromBlob(ctx context.Context, layer layout.Layer, from io.ReaderAt) writeBlob {
	return func(w *BlobWriter) (int64, string, error) {
		buf := make([]byte, min(1<<20, layer.Size))
		for off := int64(0); off < layer.Size; {
			if err := ctx.Err(); err != nil {
				return 0, "", err
			}
			p := buf[:min(int64(len(buf)), layer.Size-off)]
			if n, err := from.ReadAt(p, off); n < len(p) {
				return 0, "", fmt.Errorf("read at %d: %w", off+int64(n), errors.Join(err, io.ErrUnexpectedEOF))
			}
			if _, err := w.WriteAt(p, off); err != nil {
				return 0, "", err
			}
			off += int64(len(p))
		}
		return layer.Size, layer.RootHash, nil
	}
}

// add makes a blob whose data write gives to w.
func (s *Store) add(ctx context.Context, diffID layout.Digest, how adding, write writeBlob) (layout.Layer, error) {
	layer, err := s.addBlob(ctx, diffID, how, write)
	if err != nil {
		return layout.Layer{}, fmt.Errorf("layer %s: %w", diffID, err)
	}
	return layer, nil
}

func (s *Store) addBlob(
	ctx context.Context,
	diffID layout.Digest,
	how adding,
	write writeBlob,
) (_ layout.Layer, err error) {
	if _, err := layout.ParseDigest(string(diffID)); err != nil {
		return layout.Layer{}, err
	}
	if layer, ok, err := s.Layer(diffID); ok && !how.replace || err != nil {
		return layer, err
	}
	path := s.BlobPath(diffID)
	if err := s.fs.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return layout.Layer{}, err
	}
	open := s.fs.Create
	if how.resume {
		open = s.fs.Resume
	}
	file, err := waitFor(ctx, path, open)
	if err != nil {
		return layout.Layer{}, err
	}
	committed, kept := false, false
	defer func() {
		if committed || kept {
			file.Close()
		} else {
			s.fs.Discard(file)
		}
	}()
	// We have the temporary file's lock now. Whoever had it before may have finished.
	if layer, ok, err := s.Layer(diffID); ok && !how.replace || err != nil {
		return layer, err
	}

	w := &BlobWriter{verity.NewWriter(file), file}
	size, want, err := write(w)
	if err != nil {
		kept = how.resume && !errors.Is(err, unix.ENOSPC)
		return layout.Layer{}, err
	}
	root, total, err := w.Finish(size)
	if err != nil {
		return layout.Layer{}, err
	}
	if how.resume { // what was there may have been longer
		if err := file.Truncate(total); err != nil {
			return layout.Layer{}, err
		}
	}
	if want != "" && root != want {
		return layout.Layer{}, fmt.Errorf(
			"its root hash is %s instead of %s: it was changed or damaged on its way",
			root,
			want,
		)
	}
	layer := layout.Layer{DiffID: diffID, Size: size, RootHash: root}
	// A damaged blob may have the name. Where its sidecar stays, it is replaced by one rename, and boots until
	// then as well as it can. Else it must be gone before its sidecar is replaced.
	if have, ok, err := s.Layer(diffID); err != nil || !ok || have != layer {
		if err := s.fs.Remove(path); err != nil {
			return layout.Layer{}, err
		}
		sidecar := layout.Sidecar{RootHash: root, HashOffset: size}.Marshal()
		if err := s.fs.WriteFile(s.path(layout.SidecarPath(diffID)), sidecar, 0o644); err != nil {
			return layout.Layer{}, err
		}
	}
	if err := s.fs.Commit(file, path); err != nil {
		return layout.Layer{}, err
	}
	committed = true
	return layer, nil
}

// waitFor opens the temporary file of path, and waits for another process that has it.
func waitFor(
	ctx context.Context, path string, open func(string, fs.FileMode) (*os.File, error),
) (*os.File, error) {
	for {
		file, err := open(path, 0o644)
		if !errors.Is(err, durable.ErrBusy) {
			return file, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// withContext ends a stream when the context does.
type withContext struct {
	ctx context.Context
	r   io.Reader
}

func (w withContext) Read(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.r.Read(p)
}
