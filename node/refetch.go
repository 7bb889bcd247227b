package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// cacheDir is the directory of what is fetched, in Machine.Cache.
const cacheDir = "containerd"

// refetch replaces a layer's blob by what the release's image has, where the release says that it came from. The
// reference may name another image by now: a layer is what its digest says, whoever has it.
func (m *Machine) refetch(
	ctx context.Context,
	s *store.Store,
	want layout.Layer,
	r layout.Release,
	o VerifyOptions,
) (err error) {
	if r.Image == "" {
		return errors.New("the release was made with its medium, and does not say where its image is")
	}
	where, err := source.Parse(r.Image)
	if err != nil {
		return err
	}
	options := UpgradeOptions{Source: where, Arch: r.Arch, Registry: o.Registry, Progress: o.Progress}
	ctx, e, done, err := m.engine(ctx, options, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done(nil)) }() // nothing of it is of use later
	img, err := m.image(ctx, e, options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	for _, l := range img.Layers {
		if l.DiffID != want.DiffID {
			continue
		}
		return m.repairFrom(ctx, s, want, img, l)
	}
	return fmt.Errorf("%s names an image that does not have this layer any more", r.Image)
}

// repairFrom replaces a layer's blob by one that is converted from an image's layer.
func (m *Machine) repairFrom(
	ctx context.Context,
	s *store.Store,
	want layout.Layer,
	img *source.Image,
	l image.Layer,
) (err error) {
	if l.Blob != nil {
		return s.RepairBlob(ctx, want, l.Blob)
	}
	for _, c := range compressions(compressionFor(img.Config.Config.Labels)) {
		o, oerr := m.conversion(s, 0)
		if oerr != nil {
			return oerr
		}
		o.Compression = c
		tar, oerr := l.Open(ctx)
		if oerr != nil {
			return oerr
		}
		err = s.RepairLayer(ctx, want, tar, o)
		tar.Close()
		var digest *store.DigestError
		if err == nil || errors.As(err, &digest) || ctx.Err() != nil {
			break
		}
	}
	return err
}

// compressions lists all, the likeliest first: which one made a blob is written down nowhere.
func compressions(first erofs.Compression) []erofs.Compression {
	all := []erofs.Compression{first}
	for _, c := range []erofs.Compression{"zstd", "lz4", "none"} {
		if c != first {
			all = append(all, c)
		}
	}
	return all
}
