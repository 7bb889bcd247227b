package fat

// EachName calls do for each name in a folder, with the offsets of its first and its last dirent.
func EachName(d *Volume, dir string, do func(name string, first, last int64)) error {
	cluster, err := d.dir(dir)
	if err != nil {
		return err
	}
	all, err := d.list(cluster)
	for _, e := range all {
		do(e.name, e.dirents[0], e.dirents[len(e.dirents)-1])
	}
	return err
}
