package medium

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/uki"
)

// VerifyESP compares what an installed disk starts from with what its releases put there, and says what is wrong
// first: both copies of the file allocation table, the boot loaders and their menus, the boot entries down to what
// the menu shows of them, GRUB's kernels and its state. The releases must have been verified. It does not look at
// files that no release brings, nor at times and attributes of files, nor at GRUB's blocks outside of the ESP. An ISO
// has nothing to compare: see [Medium.Verify].
func (m *Medium) VerifyESP(ctx context.Context) error {
	if m.Format == "iso" {
		return nil
	}
	if m.esp == nil {
		return errors.New("the ESP is missing, or cannot be read")
	}
	for _, v := range m.Volumes {
		if v.Label != layout.LabelESP || v.FS != "vfat" {
			continue
		}
		if err := fat.Check(v); err != nil {
			return fmt.Errorf("the ESP: %w", err)
		}
	}
	var all []expected
	for i := range m.Releases {
		r := &m.Releases[i]
		if r.Role == "" {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := r.expect()
		if err != nil {
			return fmt.Errorf("release %s: %w", r.ID(), err)
		}
		all = append(all, e)
		if err := m.verifyEntry(r, e); err != nil {
			return err
		}
	}
	if len(all) == 0 {
		return errors.New("no release on it has a boot entry")
	}
	return m.verifyLoaders(all)
}

// expected is what a release puts onto an ESP.
type expected struct {
	*Release
	uki           []byte // as the image has it
	name, cmdline string
	programs      loader.Programs
	regenerated   bool
}

// expect reads a release's files from its layers, against their root hashes.
func (r *Release) expect() (e expected, err error) {
	e.Release = r
	var blobs []*store.Blob
	for _, l := range r.Layers {
		f, err := r.store.Open(layout.BlobPath(l.DiffID))
		if err != nil {
			return e, err
		}
		defer f.Close()
		at, ok := f.(io.ReaderAt)
		if !ok {
			return e, errors.New("its layers cannot be read")
		}
		blobs = append(blobs, &store.Blob{Layer: l, ReaderAt: at, Closer: f})
	}
	tree, err := store.MergedTree(blobs)
	if err != nil {
		return e, err
	}
	if e.uki, err = bounded.ReadFile(tree, layout.ImageUKI, maxBootFile); err != nil {
		return e, err
	}
	sum, err := uki.Authenticode(e.uki)
	if err != nil {
		return e, fmt.Errorf("/%s: %w", layout.ImageUKI, err)
	}
	o := boot.OptionsFrom(r.Labels)
	o.Detached = r.BootSignatures
	secureBoot, err := boot.ReadSecureBoot(tree, o)
	if err != nil {
		return e, err
	}
	e.regenerated = layout.SHA256(sum) != r.UKI // for another kernel than the image's boot layer knew
	if !e.regenerated {
		if e.uki, err = secureBoot.Finish(layout.ImageUKI, e.uki); err != nil {
			return e, err
		}
	}
	e.programs.Arch = r.Arch
	if e.programs.SystemdBoot, err = secureBoot.ReadLoader(tree); err != nil {
		return e, err
	}
	_, err = bounded.ReadFile(tree, layout.ImageGrubDir+"/core.img", maxBootFile)
	e.programs.Grub = err == nil && r.Arch == "amd64"
	osRelease, _ := bounded.ReadFirst(tree, maxSmall, layout.OSRelease, layout.OSReleaseVendor) // it may have none
	version, _ := bounded.ReadFile(tree, layout.ImageRelease, maxSmall)                         // nor this
	e.name = layout.EntryName(osRelease, layout.ReleaseVersion(r.Labels, version))
	return e, nil
}

// verifyEntry compares what starts a release.
func (m *Medium) verifyEntry(r *Release, e expected) error {
	names := m.ukis(r)
	if len(names) == 0 {
		return fmt.Errorf("release %s: its boot entry is missing", r.ID())
	}
	for _, name := range names {
		entry, err := layout.ParseEntry(path.Base(name))
		if err != nil {
			return err
		}
		have, err := bounded.ReadFile(m.esp, name, maxBootFile)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		e.cmdline = cmdline(m.esp, name)
		// With a signature of its own it is longer, and its Authenticode digest was compared before.
		if e.regenerated || len(have) != len(e.uki) {
			continue
		}
		want, err := uki.Replace(e.uki, uki.OSRel, layout.EntryOSRelease(e.name, m.State.Describe(entry)))
		if err != nil {
			want = e.uki
		}
		if !bytes.Equal(have, want) {
			return fmt.Errorf("%s: it is not the one in the layers of release %s, as the boot menu shows it",
				name, r.ID())
		}
	}
	if !e.programs.Grub {
		return nil
	}
	dir := path.Join(layout.GrubKernelDir, r.ID())
	for _, f := range []string{"vmlinuz", "initrd"} { // [Medium.Verify] compares what is there
		if _, err := bounded.ReadFile(m.esp, path.Join(dir, f), maxBootFile); err != nil {
			return fmt.Errorf("%s/%s: %w", dir, f, err)
		}
	}
	return m.sameFile(path.Join(dir, "entry.cfg"), layout.GrubEntry(e.cmdline, e.name))
}

// sameFile compares a file with what it may be.
func (m *Medium) sameFile(name string, may ...[]byte) error {
	have, err := bounded.ReadFile(m.esp, name, maxBootFile)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !slices.ContainsFunc(may, func(b []byte) bool { return bytes.Equal(b, have) }) {
		return fmt.Errorf("%s: it is not what the releases on this disk put there", name)
	}
	return nil
}

// verifyLoaders compares the boot loaders: they may be those of each release.
func (m *Medium) verifyLoaders(all []expected) error {
	may := map[string][][]byte{layout.UKIReadme: {[]byte(layout.UKIReadmeText)}}
	grub := false
	for _, e := range all {
		files, err := e.programs.Files()
		if err != nil {
			return err
		}
		for _, f := range files {
			may[f.Path] = append(may[f.Path], f.Data)
		}
		if e.Role == layout.RoleRecovery {
			// A node reads the name out of the UKI, and one that is signed for Secure Boot has none.
			may[layout.ResetEntry] = [][]byte{
				layout.ResetEntryText(e.ID(), e.name), layout.ResetEntryText(e.ID(), ""),
			}
		}
		grub = grub || e.programs.Grub
	}
	names := make([]string, 0, len(may))
	for name := range may {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := m.sameFile(name, may[name]...); err != nil {
			return err
		}
	}
	if !grub {
		return nil
	}
	return m.verifyGrubEnv()
}

// verifyGrubEnv compares GRUB's state with the names of the boot entries: each is a copy of the other. Tries that are
// used are counted by one of the loaders alone, until the system has started.
func (m *Medium) verifyGrubEnv() error {
	b, err := bounded.ReadFile(m.esp, layout.GrubEnv, maxSmall)
	if err != nil {
		return fmt.Errorf("%s: %w", layout.GrubEnv, err)
	}
	fail := func(why string) error { return fmt.Errorf("%s: %s", layout.GrubEnv, why) }
	have, err := layout.ParseGrubEnv(b)
	if err != nil {
		return fail(err.Error())
	}
	if again, err := have.Marshal(); err != nil || !bytes.Equal(again, b) {
		return fail("it is damaged")
	}
	if have.Recovery != m.State.Recovery || len(have.Entries) != len(m.State.Entries) {
		return fail("it has other releases than the boot entries")
	}
	for i, e := range have.Entries {
		other := m.State.Entries[i]
		used := e.Done > 0 || other.Done > 0
		if e.ID != other.ID || e.Seq != other.Seq || !used && e != other {
			return fail(fmt.Sprintf("it has the boot entry %s, and the ESP %s", e, other))
		}
	}
	return nil
}
