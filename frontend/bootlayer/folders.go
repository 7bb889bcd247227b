package bootlayer

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

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
	const maxLinks = 40
	done, rest := ".", strings.Split(strings.Trim(name, "/"), "/")
	missing := false
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, part)
		info, err := fs.Lstat(root, next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing, done = true, next
		case err != nil:
			return "", err
		case info.IsDir():
			done = next
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return "", fmt.Errorf("%s in the image is a link that leads to itself: make it a folder", name)
			}
			target, err := fs.ReadLink(root, next)
			if err != nil {
				return "", err
			}
			if path.IsAbs(target) {
				done = "."
			}
			rest = slices.Concat(strings.Split(target, "/"), rest)
		default:
			return "", fmt.Errorf("%s in the image is not a folder, and the node mounts one there: remove it", name)
		}
	}
	if !missing || exists(root, done) {
		return "", nil
	}
	return done, nil
}

func exists(root fs.FS, name string) bool {
	_, err := fs.Lstat(root, name)
	return err == nil
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
