package bootlayer

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	"github.com/kairos-buildkit/kairos/internal/follow"
	"github.com/kairos-buildkit/kairos/layout"
)

// folders returns the folders that the node's mounts need and the image lacks: its root is
// read-only where it runs. One that is a link in the image (/home to /var/home) is made
// where the link leads, within the image.
func folders(root fs.FS) ([]File, error) {
	var files []File
	for _, f := range layout.ImageFolders() {
		missing, err := missingFolder(root, f.Path)
		if err != nil {
			return nil, err
		}
		if missing != "" && !slices.ContainsFunc(files, func(o File) bool { return o.Path == missing }) {
			files = append(files, File{Path: missing, Mode: fs.ModeDir | f.Mode})
		}
	}
	return files, nil
}

// missingFolder returns where a folder is to be made, or "" where it is there.
func missingFolder(root fs.FS, name string) (string, error) {
	real, missing, err := follow.Links(root, name)
	if errors.Is(err, follow.ErrLoop) {
		return "", fmt.Errorf("%s in the image is a link that leads to itself: make it a folder", name)
	}
	noFolder := errors.Is(err, syscall.ENOTDIR)
	if err == nil && missing == 0 {
		info, serr := fs.Lstat(root, real)
		noFolder, err = serr == nil && !info.IsDir(), serr
	}
	switch {
	case noFolder:
		return "", fmt.Errorf("%s in the image is not a folder, and the node mounts one there: remove it", name)
	case err != nil || missing == 0:
		return "", err
	}
	return real, nil
}

// leftovers takes away what a build has left: container engines mount files of theirs over /etc/resolv.conf
// and /etc/hostname, and where the image has none, an empty one stays behind. On a node it would be
// taken for what a person wrote: a name of no letters, no name server.
func leftovers(root fs.FS) []File {
	var files []File
	for _, name := range []string{"etc/hostname", "etc/resolv.conf"} {
		if info, err := fs.Lstat(root, name); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
			files = append(files, File{Path: name, Removed: true})
		}
	}
	return files
}

func exists(root fs.FS, name string) bool {
	_, err := fs.Lstat(root, name)
	return err == nil
}
