package boot

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
)

// kernels lists all files that are kernels and whose version is known, the first of those with
// one version being the one to take.
func (t tree) kernels() ([]Kernel, error) {
	files, err := t.kernelFiles()
	if err != nil {
		return nil, err
	}
	var list []Kernel
	for _, name := range files {
		real, err := t.resolve(name)
		if link := t.isLink(name); err != nil && (link || errors.Is(err, fs.ErrNotExist)) {
			continue // to a kernel that was removed, or to itself
		}
		if err != nil {
			return nil, err
		}
		info, err := fs.Lstat(t.FS, real)
		if err != nil || !info.Mode().IsRegular() ||
			slices.ContainsFunc(list, func(k Kernel) bool { return k.Path == real }) {
			continue
		}
		version, err := t.kernelVersion(name, real)
		if err != nil {
			return nil, err
		}
		if version == "" {
			continue
		}
		list = append(
			list,
			Kernel{Version: version, Path: real, Modules: t.modulesDir(version), rank: rank(name, version)},
		)
	}
	slices.SortStableFunc(list, func(a, b Kernel) int { return cmp.Compare(a.rank, b.rank) })
	return list, nil
}

func (t tree) isLink(name string) bool {
	info, err := fs.Lstat(t.FS, name)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// kernelFiles lists the names that kernels may have.
func (t tree) kernelFiles() ([]string, error) {
	var files []string
	names, err := t.names("boot")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		files = append(files, path.Join("boot", name))
	}
	versions, err := t.moduleFolders()
	if err != nil {
		return nil, err
	}
	for _, dir := range versions {
		files = append(files, path.Join(dir, "vmlinuz"))
	}
	return files, nil
}

// kernelNames are what kernels are called, with a version or a flavor behind it or without.
var kernelNames = []string{"vmlinuz", "vmlinux", "Image", "kernel", "bzImage", "linux"}

// suffix returns what follows a kernel's name: "6.12.1", "lts" or nothing. It is not ok where the
// name is none of a kernel.
func suffix(name string) (s string, ok bool) {
	for _, k := range kernelNames {
		if rest, found := strings.CutPrefix(path.Base(name), k); found && (rest == "" || rest[0] == '-') {
			return strings.TrimPrefix(rest, "-"), true
		}
	}
	return "", false
}

// kernelVersion returns the version of a kernel's file, or "" where it is not a kernel.
func (t tree) kernelVersion(name, real string) (string, error) {
	if real == layout.ImageKernel && t.isOurs() {
		return "", nil
	}
	tail, named := suffix(name)
	head, err := t.head(real)
	if err != nil {
		return "", err
	}
	form := formOf(head)
	switch {
	case form == formX86:
		if v := bzVersion(head); v != "" {
			return v, nil
		}
	case form == formOther && !named, form == formGzip && !named:
		return "", nil // a map of symbols, an initrd
	case form != formOther:
		file, err := t.readFile(real, maxKernel)
		if err != nil {
			return "", err
		}
		if v := versionIn(file); v != "" {
			return v, nil
		}
	}
	if !named || strings.Contains(tail, "rescue") {
		return "", nil
	}
	if dir := path.Dir(name); dir != "boot" {
		return path.Base(dir), nil
	}
	return t.versionOf(tail), nil
}

// isOurs says whether the file /boot/vmlinuz is what we unpacked of another file.
func (t tree) isOurs() bool {
	m, err := readManifest(t)
	if err != nil || m.Kernel.Path == layout.ImageKernel {
		return false
	}
	b, err := t.readFile(layout.ImageKernel, maxKernel)
	return err == nil && digest(b) == m.Outputs[layout.ImageKernel]
}

// rank orders the files that have one version: the distribution's own names go before copies.
func rank(name, version string) int {
	base := path.Base(name)
	switch {
	case strings.Contains(base, "rescue"), strings.HasSuffix(base, ".old"), strings.HasSuffix(base, ".bak"):
		return 3
	case strings.HasSuffix(base, "-"+version):
		return 0
	case path.Dir(name) != "boot":
		return 1
	}
	return 2
}

// versionOf returns the version of a kernel that does not say one, by what follows its name. Where
// that is only a flavor ("lts", "virt": Alpine), it is the newest module folder whose name ends
// with it; where it is nothing, the only module folder.
func (t tree) versionOf(suffix string) string {
	if suffix != "" && t.modulesDir(suffix) != "" {
		return suffix
	}
	folders, _ := t.moduleFolders()
	if suffix == "" {
		if len(folders) == 1 {
			return path.Base(folders[0])
		}
		return ""
	}
	best := ""
	for _, dir := range folders {
		if name := path.Base(dir); strings.HasSuffix(name, "-"+suffix) &&
			(best == "" || CompareVersions(name, best) > 0) {
			best = name
		}
	}
	return cmp.Or(best, suffix)
}

// moduleDirs are where module folders are.
var moduleDirs = []string{"usr/lib/modules", "lib/modules"}

// moduleFolders lists the folders that are named by a kernel's version, each once.
func (t tree) moduleFolders() ([]string, error) {
	var folders []string
	for _, dir := range moduleDirs {
		names, err := t.names(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			known := slices.ContainsFunc(folders, func(f string) bool { return path.Base(f) == name })
			if d := path.Join(dir, name); !known && t.isDir(d) {
				folders = append(folders, d)
			}
		}
	}
	return folders, nil
}

// modulesDir returns the folder with a kernel's modules, or "". A folder that only holds what
// was left there by a package that is gone, or by one that adds a module, is none.
func (t tree) modulesDir(version string) string {
	for _, dir := range moduleDirs {
		d := path.Join(dir, version)
		for _, has := range []string{"modules.dep", "modules.builtin", "modules.order", "kernel"} {
			if _, err := t.stat(path.Join(d, has)); err != nil {
				continue
			}
			if real, err := t.resolve(d); err == nil {
				return real
			}
		}
	}
	return ""
}

// choose returns the kernel that boots: the one that a person asks for, or the newest.
func (t tree) choose(kernels []Kernel, label string) (Kernel, error) {
	newest := func(list []Kernel) Kernel {
		return slices.MaxFunc(list, func(a, b Kernel) int { return CompareVersions(a.Version, b.Version) })
	}
	usable := slices.DeleteFunc(slices.Clone(kernels), func(k Kernel) bool { return k.Modules == "" })
	if label = strings.TrimSpace(label); label != "" {
		match := slices.DeleteFunc(slices.Clone(kernels), func(k Kernel) bool { return !t.matches(k, label) })
		if len(match) == 0 {
			return Kernel{}, fmt.Errorf(
				"label %s=%s: the image has no such kernel, but %s: give a version, a pattern such as *-rt-*, "+
					"or a path",
				layout.ImageLabelKernel,
				label,
				versions(kernels),
			)
		}
		with := slices.DeleteFunc(slices.Clone(match), func(k Kernel) bool { return k.Modules == "" })
		if len(with) > 0 {
			match = with
		}
		k := newest(match)
		k.Chosen = true
		return k, nil
	}
	if len(usable) == 0 {
		return newest(kernels), nil
	}
	if k, ok := t.linked(usable); ok {
		return k, nil
	}
	return newest(usable), nil
}

// matches says whether a label means a kernel.
func (t tree) matches(k Kernel, label string) bool {
	if path.IsAbs(label) {
		real, err := t.resolve(label)
		return err == nil && real == k.Path
	}
	ok, err := path.Match(label, k.Version)
	return ok && err == nil || label == k.Version
}

func versions(kernels []Kernel) string {
	var list []string
	for _, k := range kernels {
		list = append(list, k.Version)
	}
	slices.Sort(list)
	return strings.Join(slices.Compact(list), ", ")
}

// linked returns the kernel that a link names which a person has made. Some distributions make such
// a link themselves, which is no choice while there is one kernel.
func (t tree) linked(kernels []Kernel) (Kernel, bool) {
	if !slices.ContainsFunc(kernels, func(k Kernel) bool { return k.Version != kernels[0].Version }) {
		return Kernel{}, false
	}
	for _, link := range []string{layout.ImageKernel, path.Base(layout.ImageKernel)} {
		if !t.isLink(link) {
			continue
		}
		target, err := t.resolve(link)
		if err != nil {
			continue
		}
		if link == layout.ImageKernel {
			if m, err := readManifest(t); err == nil && m.Kernel.Path == target && !m.Kernel.Chosen {
				continue
			}
		}
		if i := slices.IndexFunc(kernels, func(k Kernel) bool { return k.Path == target }); i >= 0 {
			k := kernels[i]
			k.Chosen = true
			return k, true
		}
	}
	return Kernel{}, false
}
