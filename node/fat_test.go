package node

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/internal/efivars"
	"github.com/kairos-buildkit/kairos/internal/fattest"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/store"
)

// withCommandLine are boot files with the words that the config adds to the kernel's command line: of other sizes, and
// other bytes throughout.
func withCommandLine(_ *store.Store, r layout.Release, _ Progress) (loader.BootFiles, bootFacts, error) {
	words := r.Labels[layout.ImageLabelCmdline]
	part := func(name string) []byte {
		return bytes.Repeat([]byte(name+" of "+r.ID()+": "+words+"\n"), 300+100*len(words))
	}
	return loader.BootFiles{UKI: part("UKI"), Kernel: part("kernel"), Initrd: part("initrd"), Cmdline: words},
		bootFacts{}, nil
}

// onFAT gives a machine an ESP on a FAT volume, with the files of a new disk.
func onFAT(t *testing.T, m *Machine, disk string, r layout.Release) *fattest.Volume {
	t.Helper()
	files, _, err := m.bootFiles(nil, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	content, err := loader.Content(loader.Programs{Arch: "amd64", SystemdBoot: []byte("loader"), Grub: true},
		r.ID(), files, false)
	if err != nil {
		t.Fatal(err)
	}
	var made []filetree.File
	for _, f := range content {
		made = append(made, filetree.Bytes(f.Path, f.Data))
	}
	v := fattest.New(t, 16<<20, made...)
	m.ESP = newESP(v.Dir, m.Boot.Firmware, m.FS, v.Names(), efivars.Dir(filepath.Join(disk, "efivars")))
	return v
}

// Installing the same medium once more, with another command line, gives the recovery system other bytes under the
// name that it has. They take the old ones' place as a whole: after each write below the file system the recovery
// system is the old one or the new one, and so is the system.
func TestReinstallWithAnotherCommandLine(t *testing.T) {
	a, _, _ := threeImages(t)
	for _, firmware := range []string{"uefi", "bios"} {
		t.Run(firmware, func(t *testing.T) {
			disk := t.TempDir()
			m := install(t, disk, firmware, t.TempDir(), a)
			medium, release, err := liveMedium(t, a)
			if err != nil {
				t.Fatal(err)
			}
			m.bootFiles = withCommandLine
			v := onFAT(t, m, disk, release)
			for _, words := range []string{"quiet splash", "debug", "debug", "console=ttyS1 nomodeset"} {
				c := config.Merge(config.Parse("config.yaml",
					[]byte("install: {no-format: true, grub_options: {extra_cmdline: "+words+"}}")))
				before := ukis(t, v)
				want, _, err := withCommandLine(nil, withCmdline(release, c.Install()), nil)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(want.Cmdline, words) {
					t.Fatalf("the config's words are not in the command line: %q", want.Cmdline)
				}
				writes := 0
				v.Wrote = func(d *fat.Volume) {
					writes++
					checkWhole(t, d, release.ID(), before, want.UKI)
				}
				if err := m.adopt(t.Context(), medium, release, InstallOptions{Config: c}); err != nil {
					t.Fatalf("%s: %v", words, err)
				}
				v.Check()
				got := ukis(t, v)
				if len(got) != 2 || !bytes.Equal(got[0], want.UKI) || !bytes.Equal(got[1], want.UKI) {
					t.Errorf("%s: %d UKIs, and not all of them are the new one", words, len(got))
				}
				if kernel, err := m.ESP.ReadFile(layout.GrubKernelDir + "/" + release.ID() + "/vmlinuz"); err != nil ||
					!bytes.Equal(kernel, want.Kernel) {
					t.Errorf("%s: GRUB's kernel: %d bytes, %v", words, len(kernel), err)
				}
				if writes == 0 {
					t.Errorf("%s: nothing was written below the file system", words)
				}
			}
		})
	}
}

// Each command leaves a FAT volume as fsck.fat wants it, and on it what the command says that boots.
func TestCommandsOnFAT(t *testing.T) {
	a, b, c := threeImages(t)
	for _, firmware := range []string{"uefi", "bios"} {
		t.Run(firmware, func(t *testing.T) {
			disk := t.TempDir()
			m := install(t, disk, firmware, t.TempDir(), a)
			release, err := m.State.Release(a.id)
			if err != nil {
				t.Fatal(err)
			}
			v := onFAT(t, m, disk, release)
			upgrade := func(to testImage, recovery bool) error {
				_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: to.source(), Recovery: recovery})
				return err
			}
			blessed := func() error { _, err := m.Bless(Verdict{}); return err }
			for _, step := range []struct {
				name     string
				booted   string
				do       func() error
				want     []string
				recovery string
			}{
				{"bless", a.id, blessed, []string{a.id}, a.id},
				{"upgrade", a.id, func() error { return upgrade(b, false) }, []string{b.id, a.id}, a.id},
				{"bless the new one", b.id, blessed, []string{b.id, a.id}, a.id},
				{"upgrade of recovery", b.id, func() error { return upgrade(c, true) }, []string{b.id, a.id}, c.id},
				{"rollback", b.id, func() error { _, err := m.Rollback(t.Context(), a.id, nil); return err },
					[]string{a.id, b.id}, c.id},
				// The last one that was blessed stays.
				{"upgrade once more", a.id, func() error { return upgrade(c, false) },
					[]string{c.id, a.id, b.id}, c.id},
				{"bless the last one", c.id, blessed, []string{c.id, a.id, b.id}, c.id},
				{"gc", c.id, func() error { _, err := m.GC(t.Context(), nil); return err },
					[]string{c.id, a.id}, c.id},
			} {
				m.Boot.Release = step.booted
				if err := step.do(); err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				v.Check()
				state, err := m.ESP.State()
				if err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				var got []string
				for _, e := range state.Entries {
					got = append(got, e.ID)
				}
				if !slices.Equal(got, step.want) || state.Recovery != step.recovery {
					t.Errorf("%s: %q boot, and %s recovers; want %q and %s",
						step.name, got, state.Recovery, step.want, step.recovery)
				}
			}
		})
	}
}

// checkWhole checks that recovery system and system have one of these UKIs each.
func checkWhole(t *testing.T, v *fat.Volume, id string, before [][]byte, after []byte) {
	t.Helper()
	names, err := fs.ReadDir(v.FS(), layout.UKIDir)
	if err != nil {
		t.Error(err)
	}
	system, recovery := false, false
	for _, n := range names {
		e, err := layout.ParseEntry(n.Name())
		if err != nil {
			continue
		}
		b, err := fs.ReadFile(v.FS(), layout.UKIDir+"/"+n.Name())
		if err != nil || !bytes.Equal(b, after) &&
			!slices.ContainsFunc(before, func(old []byte) bool { return bytes.Equal(b, old) }) {
			t.Errorf("%s has %d bytes that are neither the old nor the new ones: %v", n.Name(), len(b), err)
		}
		system = system || e.Seq != layout.RecoverySeq && e.ID == id
		recovery = recovery || e.Seq == layout.RecoverySeq && e.ID == id
	}
	if !system || !recovery {
		t.Errorf("system: %v, recovery: %v", system, recovery)
	}
}

// ukis are the contents of all boot entries, by their names.
func ukis(t *testing.T, v *fattest.Volume) (all [][]byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(v.Dir, layout.UKIDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, err := layout.ParseEntry(filepath.Base(name)); err == nil {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b)
		}
	}
	return all
}
