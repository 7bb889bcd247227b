package erofs

import (
	"archive/tar"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"path"
	"strings"
)

// Names with a meaning in an OCI layer, image-spec layer.md, "Whiteouts".
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	auxiliary      = ".wh..wh." // what AUFS keeps for itself
)

// opaqueXattr is what overlayfs looks for.
var opaqueXattr = xattr{index: 4, name: "overlay.opaque", value: "y"}

// dataStore takes the content of regular files as the archive brings it. sparse is
// whether the archive says that it has holes, room how much of it can be kept with the
// inode.
type dataStore interface {
	store(ctx context.Context, r io.Reader, size int64, sparse bool, room int) (*fileData, error)
}

// readTar reads a layer to its last byte, files' contents into data.
func readTar(ctx context.Context, r io.Reader, data dataStore, b *bounds) (*tree, error) {
	t := &tree{root: newDir()}
	interned := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err := addEntry(ctx, t, h, tr, data, interned, b); err != nil {
			return nil, fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	// The archive goes on after its end marker, and whoever computes its digest by
	// watching what is read needs all of it.
	_, err := io.Copy(io.Discard, r)
	return t, err
}

func addEntry(
	ctx context.Context,
	t *tree,
	h *tar.Header,
	content io.Reader,
	data dataStore,
	interned map[string]string,
	b *bounds,
) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader, 'V': // a volume label
		return nil
	}
	if err := b.take(h.Size, len(h.Name)+len(h.Linkname)); err != nil {
		return err
	}
	name := strings.TrimRight(h.Name, "/")
	base := path.Base(name)
	switch {
	case base == opaqueMarker:
	case strings.HasPrefix(name, auxiliary), strings.Contains(name, "/"+auxiliary):
		return nil
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return addWhiteout(t, strings.TrimSuffix(name, base), base)
	}
	if h.Typeflag == tar.TypeLink {
		return t.link(h.Name, h.Linkname)
	}
	n, err := newNode(h, interned)
	if err != nil {
		return err
	}
	if len(n.xattrs) > 0 { // counted for each, although equal ones are kept once
		if err := b.take(0, len(n.xattrs)); err != nil {
			return err
		}
	}
	if n.isRegular() && h.Size > 0 {
		// Refuse a bad path before its content is stored.
		if _, _, err := t.locate(h.Name, true); err != nil {
			return err
		}
		n.size = h.Size
		n.data, err = data.store(ctx, content, h.Size, isSparse(h), blockSize-inodeExtendedSize-len(n.xattrs))
		if err != nil {
			return err
		}
	}
	return t.add(h.Name, n)
}

func isSparse(h *tar.Header) bool {
	_, v00 := h.PAXRecords["GNU.sparse.size"]
	_, v10 := h.PAXRecords["GNU.sparse.realsize"]
	return h.Typeflag == tar.TypeGNUSparse || v00 || v10
}

func addWhiteout(t *tree, dir, base string) error {
	switch {
	case base == opaqueMarker:
		d, _, err := t.locate(dir+base, true)
		if err != nil {
			return err
		}
		d.opaque = true
		return nil
	case base == whiteoutPrefix:
		return errors.New("whiteout without a name")
	}
	return t.add(dir+base[len(whiteoutPrefix):], &node{mode: modeChar, whiteout: true})
}

func newNode(h *tar.Header, interned map[string]string) (*node, error) {
	n := &node{mtime: h.ModTime.Unix(), nsec: uint32(h.ModTime.Nanosecond()), mode: uint16(h.Mode & 0o7777)}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > math.MaxUint32 || int64(h.Gid) > math.MaxUint32 {
		return nil, fmt.Errorf("owner %d:%d: want 32 bits", h.Uid, h.Gid)
	}
	n.uid, n.gid = uint32(h.Uid), uint32(h.Gid)
	switch h.Typeflag {
	//lint:ignore SA1019 old archives have TypeRegA
	case tar.TypeReg, tar.TypeRegA, tar.TypeCont, tar.TypeGNUSparse:
		n.mode |= modeRegular
	case tar.TypeDir, 'D': // D: of an incremental GNU archive
		n.mode |= modeDir
		n.entries = map[string]*node{}
	case tar.TypeSymlink:
		n.mode = modeSymlink | 0o777 // Linux keeps no other
		n.target, n.size = h.Linkname, int64(len(h.Linkname))
		if n.size == 0 || n.size > maxSymlink {
			return nil, fmt.Errorf("symbolic link to %d bytes: want 1 to %d", n.size, maxSymlink)
		}
	case tar.TypeFifo:
		n.mode |= modeFifo
	case tar.TypeChar, tar.TypeBlock:
		if n.mode |= modeChar; h.Typeflag == tar.TypeBlock {
			n.mode |= modeBlock // which has modeChar's bit, too
		}
		var ok bool
		if n.rdev, ok = encodeDev(h.Devmajor, h.Devminor); !ok {
			return nil, fmt.Errorf("device %d:%d: Linux has 12 bits of major and 20 of minor", h.Devmajor, h.Devminor)
		}
	default:
		return nil, fmt.Errorf("type %q is none that a layer may hold", h.Typeflag)
	}
	attrs, err := tarXattrs(h)
	if err != nil {
		return nil, err
	}
	if n.xattrs, err = encodeXattrs(attrs); err != nil {
		return nil, err
	}
	// Whole trees share one security label.
	if shared, ok := interned[n.xattrs]; ok {
		n.xattrs = shared
	} else {
		interned[n.xattrs] = n.xattrs
	}
	return n, nil
}

// tarXattrs returns the extended attributes of an entry, in whichever way the program that
// wrote it says them: as they are (GNU tar, container engines), in base64 (bsdtar), ACLs
// and SELinux's label in fields of their own (GNU tar, star). What Linux has no name space
// for is left out, as extracting would.
func tarXattrs(h *tar.Header) ([]xattr, error) {
	values := map[string]string{}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, "LIBARCHIVE.xattr."); ok {
			b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
			name, nameErr := url.PathUnescape(name)
			if err := cmp.Or(err, nameErr); err != nil {
				return nil, fmt.Errorf("extended attribute %s: %w", key, err)
			}
			values[name] = string(b)
		}
	}
	if label, ok := h.PAXRecords["RHT.security.selinux"]; ok {
		values["security.selinux"] = label + "\x00" // as setfilecon(3) stores it
	}
	for key, name := range map[string]string{
		"SCHILY.acl.access":  "system.posix_acl_access",
		"SCHILY.acl.default": "system.posix_acl_default",
	} {
		if text, ok := h.PAXRecords[key]; ok {
			acl, err := encodeACL(text)
			if err != nil {
				return nil, err
			}
			// The kernel keeps none that says what the mode says, but a default one.
			if acl != "" && (name == "system.posix_acl_default" || !minimalACL(acl)) {
				values[name] = acl
			}
		}
	}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			values[name] = value
		}
	}
	var attrs []xattr
	for name, value := range values {
		if x, ok := parseXattr(name, value); ok {
			attrs = append(attrs, x)
		}
	}
	return attrs, nil
}
