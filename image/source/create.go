package source

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/layout"
)

// Destination is a place that an image is copied to.
type Destination interface {
	// Push adds a blob or a manifest by its digest, unless it is there: then nothing is read, and added is false.
	Push(ctx context.Context, desc ocispec.Descriptor, from io.Reader) (added bool, err error)
	// PushReferrer adds the manifest of an artifact so that it is found beside its subject.
	PushReferrer(
		ctx context.Context, subject layout.Digest, artifactType string, manifest []byte,
	) (ocispec.Descriptor, error)
	// Tag gives an index or a manifest that was pushed the name that the destination was opened with.
	Tag(ctx context.Context, desc ocispec.Descriptor, manifest []byte) error
	// TagAs gives a manifest that was pushed another tag.
	TagAs(ctx context.Context, tag string, desc ocispec.Descriptor, manifest []byte) error
	// Finish ends the copy. With an error that is not nil, an archive is not made.
	Finish(failed error) error
}

// Create opens a destination: a repository, which need not be there, an OCI layout, which is added to where there is
// one, or an archive of a layout, which replaces what
// has the name. Without a tag the image is called latest.
func Create(ctx context.Context, r Ref, o Options) (Destination, error) {
	switch r.Kind {
	case Registry:
		to, err := registry.At(ctx, r.Name, o.Registry)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r, err)
		}
		return repository{to}, nil
	case OCILayout:
		d, err := createLayout(r.Name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r, err)
		}
		return d, nil
	case OCIArchive:
		d, err := createArchive(r.Name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r, err)
		}
		return d, nil
	default:
		return nil, fmt.Errorf("%s: an image is copied to a registry, an oci-layout: or an oci-archive:", r)
	}
}

type repository struct{ *registry.Repository }

// Finish implements Destination.
func (repository) Finish(failed error) error { return failed }

// newPath takes PATH:TAG apart, where nothing need be there yet.
func newPath(s string) (name, tag string, err error) {
	name, tag = splitTag(s)
	if i := strings.LastIndexByte(s, ':'); name == s && i > 0 && !strings.Contains(s[i:], "/") {
		if _, err := os.Stat(s); err != nil {
			name, tag = s[:i], s[i+1:]
		}
	}
	if strings.HasPrefix(tag, "@") {
		return "", "", fmt.Errorf("%s: the copy is named by a tag, not by a digest", s)
	}
	if tag == "" {
		tag = "latest"
	}
	return name, tag, nil
}

// names are what the index of a layout has.
type names struct {
	tag   string
	index []ocispec.Descriptor
}

// refer adds an artifact, once.
func (n *names) refer(desc ocispec.Descriptor, artifactType string) {
	desc.ArtifactType = artifactType
	if !slices.ContainsFunc(n.index, func(d ocispec.Descriptor) bool { return d.Digest == desc.Digest }) {
		n.index = append(n.index, desc)
	}
}

// name gives a manifest a tag. What had it before is not listed any more. Images come before what refers to them.
func (n *names) name(tag string, desc ocispec.Descriptor) {
	desc = ocispec.Descriptor{
		MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size,
		Annotations: map[string]string{ocispec.AnnotationRefName: tag},
	}
	n.index = slices.DeleteFunc(n.index, func(d ocispec.Descriptor) bool {
		return d.Annotations[ocispec.AnnotationRefName] == tag && d.Annotations[images.AnnotationImageName] == ""
	})
	n.index = append([]ocispec.Descriptor{desc}, n.index...)
}

// TagAs implements Destination.
func (n *names) TagAs(_ context.Context, tag string, desc ocispec.Descriptor, _ []byte) error {
	n.name(tag, desc)
	return nil
}

func (n *names) marshal() ([]byte, error) {
	return json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: n.index,
	})
}

var layoutFile = []byte(`{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`)

// newLayout is an OCI layout in a folder.
type newLayout struct {
	names
	root *os.Root
}

func createLayout(s string) (_ *newLayout, err error) {
	dir, tag, err := newPath(s)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	l := &newLayout{names: names{tag: tag}}
	if l.root, err = os.OpenRoot(dir); err != nil {
		return nil, err
	}
	l.index, err = readIndex(l.root.FS())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
		if all, rerr := os.ReadDir(dir); rerr != nil || len(all) > 0 {
			err = errors.Join(rerr, errors.New("the folder has other files, and no OCI layout: give an empty one"))
		}
	}
	if err == nil {
		err = l.root.MkdirAll("blobs/sha256", 0o755)
	}
	if err != nil {
		return nil, errors.Join(err, l.root.Close())
	}
	return l, nil
}

func (l *newLayout) Push(_ context.Context, desc ocispec.Descriptor, from io.Reader) (bool, error) {
	name, err := blobName(desc)
	if err != nil {
		return false, err
	}
	if l.has(name, desc) {
		return false, nil
	}
	if err := l.write(name, from, &desc); err != nil {
		return false, fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	return true, nil
}

// has says whether a blob is there with the bytes that it should have.
func (l *newLayout) has(name string, desc ocispec.Descriptor) bool {
	f, err := l.root.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() != desc.Size {
		return false
	}
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return err == nil && hex.EncodeToString(sum.Sum(nil)) == desc.Digest.Encoded()
}

// write makes a file as a whole, or none.
func (l *newLayout) write(name string, from io.Reader, want *ocispec.Descriptor) (err error) {
	temp := path.Join(path.Dir(name), ".tmp-"+rand.Text())
	f, err := l.root.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), l.root.Remove(temp))
		}
	}()
	if want == nil {
		_, err = io.Copy(f, from)
	} else {
		err = copyBlob(f, from, *want)
	}
	if err := errors.Join(err, f.Sync()); err != nil {
		return err
	}
	if err := l.root.Rename(temp, name); err != nil {
		return err
	}
	return f.Close()
}

// copyBlob copies a blob, and compares it with its descriptor.
func copyBlob(to io.Writer, from io.Reader, desc ocispec.Descriptor) error {
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(to, sum), io.LimitReader(from, desc.Size+1))
	if err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, sum); n != desc.Size || got != desc.Digest {
		return fmt.Errorf("its content is another one, %s, %d bytes: it is damaged", got, n)
	}
	return nil
}

func (l *newLayout) PushReferrer(
	ctx context.Context, _ layout.Digest, artifactType string, manifest []byte,
) (ocispec.Descriptor, error) {
	desc := manifestOf(manifest)
	_, err := l.Push(ctx, desc, bytes.NewReader(manifest))
	l.refer(desc, artifactType)
	return desc, err
}

func (l *newLayout) Tag(_ context.Context, desc ocispec.Descriptor, _ []byte) error {
	l.name(l.tag, desc)
	b, err := l.marshal()
	if err != nil {
		return err
	}
	if err := l.write(ocispec.ImageLayoutFile, bytes.NewReader(layoutFile), nil); err != nil {
		return err
	}
	return l.write(ocispec.ImageIndexFile, bytes.NewReader(b), nil)
}

func (l *newLayout) Finish(failed error) error { return errors.Join(failed, l.root.Close()) }

func manifestOf(b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(b), Size: int64(len(b)),
	}
}

func blobName(desc ocispec.Descriptor) (string, error) {
	if _, err := layout.ParseDigest(desc.Digest.String()); err != nil {
		return "", fmt.Errorf("blob: %w", err)
	}
	return path.Join("blobs/sha256", desc.Digest.Encoded()), nil
}

// newArchive is an OCI layout in a tar, which has its name when it is complete. Times and owners are 0, so that the
// same image gives the same bytes.
type newArchive struct {
	names
	path string
	file *os.File
	tar  *tar.Writer
	has  map[string]bool
}

func createArchive(s string) (*newArchive, error) {
	name, tag, err := newPath(s)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-*.tar")
	if err != nil {
		return nil, err
	}
	a := &newArchive{names: names{tag: tag}, path: name, file: f, tar: tar.NewWriter(f), has: map[string]bool{}}
	return a, nil
}

func (a *newArchive) Push(_ context.Context, desc ocispec.Descriptor, from io.Reader) (bool, error) {
	name, err := blobName(desc)
	if err != nil || a.has[name] {
		return false, err
	}
	a.has[name] = true
	if err := a.header(name, desc.Size); err != nil {
		return false, err
	}
	if err := copyBlob(a.tar, from, desc); err != nil {
		return false, fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	return true, nil
}

func (a *newArchive) header(name string, size int64) error {
	return a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size})
}

func (a *newArchive) PushReferrer(
	ctx context.Context, _ layout.Digest, artifactType string, manifest []byte,
) (ocispec.Descriptor, error) {
	desc := manifestOf(manifest)
	_, err := a.Push(ctx, desc, bytes.NewReader(manifest))
	a.refer(desc, artifactType)
	return desc, err
}

func (a *newArchive) Tag(_ context.Context, desc ocispec.Descriptor, _ []byte) error {
	a.name(a.tag, desc)
	return nil
}

func (a *newArchive) Finish(failed error) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, a.file.Close(), os.Remove(a.file.Name()))
		}
	}()
	if failed != nil {
		return failed
	}
	index, err := a.marshal()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		b    []byte
	}{{ocispec.ImageLayoutFile, layoutFile}, {ocispec.ImageIndexFile, index}} {
		if err := a.header(f.name, int64(len(f.b))); err != nil {
			return err
		}
		if _, err := a.tar.Write(f.b); err != nil {
			return err
		}
	}
	if err := errors.Join(a.tar.Close(), a.file.Chmod(0o644), a.file.Sync()); err != nil {
		return err
	}
	if err := os.Rename(a.file.Name(), a.path); err != nil {
		return err
	}
	return a.file.Close()
}
