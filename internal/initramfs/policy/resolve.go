package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// resolve looks a folder up inside a root, as the system that has it as its root would: absolute links begin there,
// and none leads out of it. It returns the folder's path in the root, without links.
func resolve(root, path string) (string, error) {
	base, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(base)
	fd, err := unix.Openat2(base, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	rootPath, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", base))
	if err != nil {
		return "", err
	}
	found, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", err
	}
	in, ok := strings.CutPrefix(found, rootPath)
	if !ok || in != "" && in[0] != '/' {
		return "", fmt.Errorf("%s is outside of %s", found, root)
	}
	if strings.ContainsAny(in, `:,\`) {
		// The kernel would read such a name as several options.
		return "", fmt.Errorf("%s is a link to a folder with \":\", \",\" or \"\\\" in its name", path)
	}
	return "/" + strings.TrimPrefix(in, "/"), nil
}

// resolveOrMake is resolve, and makes the folder where it is missing: also one that a link points to.
func resolveOrMake(root, path string) (string, error) {
	at, missing, err := leads(root, path)
	if err != nil || missing == "" {
		return at, err
	}
	if err := os.MkdirAll(root+at+missing, 0o755); err != nil {
		return "", err
	}
	return resolve(root, at+missing)
}

// leads is resolve for a folder that may be missing: at is the deepest one on the way that is there, and missing what
// is to be made below it.
func leads(root, path string) (at, missing string, err error) {
	const links = 40 // as many as the kernel follows
	for n := 0; ; {
		at, err := resolve(root, path)
		if err == nil {
			return at, missing, nil
		}
		if !errors.Is(err, unix.ENOENT) || path == "/" {
			return "", "", err
		}
		// It, or what it is a link to, is not there.
		parent := filepath.Dir(path)
		if dir, err := resolve(root, parent); err == nil {
			if target, err := os.Readlink(root + filepath.Join(dir, filepath.Base(path))); err == nil {
				if n++; n > links {
					return "", "", unix.ELOOP
				}
				if !filepath.IsAbs(target) {
					target = filepath.Join(dir, target)
				}
				path = filepath.Join("/", target)
				continue
			}
		}
		missing = filepath.Join("/", filepath.Base(path)) + missing
		path = parent
	}
}

// usableIn leaves out what leads to a folder of the release in a root, through a link of the image, and says why.
func usableIn(root string, m layout.Mounts) (layout.Mounts, []error) {
	where := func(dir string) string {
		if at, err := resolve(root, dir); err == nil {
			return at
		}
		return dir
	}
	var errs []error
	check := func(paths []string) (usable []string) {
		for _, path := range paths {
			at, missing, err := leads(root, path)
			if err == nil {
				err = layout.CheckMountPlace(path, filepath.Join(at, missing), where)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s lists %s: %w", layout.OEMMounts, path, err))
				continue
			}
			usable = append(usable, path)
		}
		return usable
	}
	return layout.Mounts{Bind: check(m.Bind), Ephemeral: check(m.Ephemeral)}, errs
}
