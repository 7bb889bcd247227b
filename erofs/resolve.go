package erofs

import "strings"

// resolve follows a name from the root of a tree to its file, as the kernel does below a root of its own: ".." of
// the root is the root, and a symbolic link begins there when it is absolute. With follow, a symbolic link at the
// name's end is followed, too.
func resolve[T interface {
	isDir() bool
	isSymlink() bool
}](root T, name string, follow bool, child func(dir T, name string) (T, error), readlink func(T) (string, error)) (T,
	error) {
	var none T
	up := []T{root}
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		at := up[len(up)-1]
		part := rest[0]
		rest = rest[1:]
		if !at.isDir() {
			return none, errNotDir
		}
		switch part {
		case "", ".":
			continue
		case "..":
			up = up[:max(1, len(up)-1)]
			continue
		}
		next, err := child(at, part)
		if err != nil {
			return none, err
		}
		if !next.isSymlink() || len(rest) == 0 && !follow {
			up = append(up, next)
			continue
		}
		if links++; links > maxLinks {
			return none, errLoop
		}
		target, err := readlink(next)
		if err != nil {
			return none, err
		}
		if strings.HasPrefix(target, "/") {
			up = up[:1]
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return up[len(up)-1], nil
}
