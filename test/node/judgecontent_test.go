//go:build vm

package node

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/internal/qemu"
	klayout "github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/uki"
)

// bootFiles has, for each boot file, the contents that are right: those that it has between two
// commands. A file's name here is what it is for: "uki/<id>", not the name on the ESP.
type bootFiles map[string]map[[32]byte]bool

// espContent is what an ESP says about booting.
type espContent struct {
	order    []klayout.Entry         // what the loader starts, first to last
	used     []klayout.Entry         // what a file of the loader's names
	problems map[klayout.Entry]error // with an entry's files
	files    map[string][32]byte
}

// learn takes the boot files that the disk has now for good ones.
func (j *judge) learn() error {
	p := j.part("efi")
	esp, err := j.readESP(p)
	if err != nil {
		return err
	}
	if err := errors.Join(slices.Collect(maps.Values(esp.problems))...); err != nil {
		return fmt.Errorf("between two commands: %w", err)
	}
	for name, sum := range esp.files {
		if j.known[name] == nil {
			j.known[name] = map[[32]byte]bool{}
		}
		j.known[name][sum] = true
	}
	return nil
}

// checkESP checks the file system and the boot files.
func (j *judge) checkESP(p *part) (espContent, error) {
	esp, err := j.readESP(p)
	if err := errors.Join(j.fsckFAT(p, esp), err); err != nil {
		return esp, err
	}
	for name, sum := range esp.files {
		if !j.known[name][sum] {
			return esp, fmt.Errorf("%s is neither the old nor the new file", name)
		}
	}
	return esp, nil
}

// fsckFAT runs fsck.vfat on the ESP.
func (j *judge) fsckFAT(p *part, esp espContent) error {
	out, err := exec.Command("losetup", "--find", "--show", "--read-only", "--offset", fmt.Sprint(p.start),
		"--sizelimit", fmt.Sprint(p.size), j.disk.Name()).
		CombinedOutput()
	if err != nil {
		return fmt.Errorf("losetup: %w: %s", err, out)
	}
	loop := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "--detach", loop).Run()
	out, err = exec.Command("fsck.vfat", "-n", loop).CombinedOutput()
	if err != nil && exitCode(err) != 1 {
		return fmt.Errorf("fsck.vfat: %w\n%s", err, out)
	}
	if problem := fatProblem(lines(out), j.inFlight, unusedFAT(esp.used)); problem != "" {
		return fmt.Errorf("fsck.vfat: %s\n%s", problem, out)
	}
	return nil
}

// readESP reads what the loader reads.
func (j *judge) readESP(p *part) (esp espContent, err error) {
	err = j.copiedFAT(p, func(dir string) error {
		esp = espContent{problems: map[klayout.Entry]error{}, files: map[string][32]byte{}}
		names, err := os.ReadDir(filepath.Join(dir, klayout.UKIDir))
		if err != nil {
			return err
		}
		var entries []klayout.Entry
		for _, f := range names {
			if e, err := klayout.ParseEntry(f.Name()); err == nil {
				entries = append(entries, e)
			} else if strings.HasSuffix(strings.ToLower(f.Name()), ".efi") {
				return fmt.Errorf("the loader starts %s, which is none of ours", f.Name())
			}
		}
		loader, err := os.ReadFile(filepath.Join(dir, "EFI/BOOT/BOOTX64.EFI"))
		if err != nil {
			return err
		}
		esp.files["loader"] = sha256.Sum256(loader)
		b, err := os.ReadFile(filepath.Join(dir, klayout.GrubEnv))
		if err != nil {
			return err
		}
		g, err := klayout.ParseGrubEnv(b)
		if err != nil {
			return err
		}
		if j.firmware == qemu.BIOS {
			entries = g.Entries
			if g.Recovery != "" {
				entries = append(slices.Clone(entries), klayout.Entry{ID: g.Recovery})
			}
			config, err := os.ReadFile(filepath.Join(dir, klayout.GrubConfig))
			if err != nil {
				return err
			}
			esp.files["grub.cfg"] = sha256.Sum256(config)
		}
		esp.used, esp.order = entries, order(entries)
		for _, e := range esp.order {
			esp.problems[e] = j.readBootFiles(p, dir, e, esp.files)
		}
		return nil
	})
	return esp, err
}

// copiedFAT shows a copy of files on a FAT volume, made with mtools: not every kernel that runs the
// tests has FAT. Only what the loader reads is copied: other files may be torn.
func (j *judge) copiedFAT(p *part, do func(dir string) error) error {
	dir := filepath.Join(j.scratch, "esp")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for _, from := range []string{"EFI/BOOT/*", klayout.UKIDir + "/*.efi", klayout.GrubConfig, klayout.GrubEnv} {
		if err := j.copyFAT(p, from, dir); err != nil {
			return err
		}
	}
	return do(dir)
}

// copyFAT copies files that a pattern names.
func (j *judge) copyFAT(p *part, from, dir string) error {
	to := filepath.Join(dir, filepath.Dir(from))
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	out, err := exec.Command("mcopy", "-n", "-Q", "-i", fmt.Sprintf("%s@@%d", j.disk.Name(), p.start), "::"+from, to).
		CombinedOutput()
	if err != nil {
		return fmt.Errorf("mcopy %s: %w: %s", from, err, out)
	}
	return nil
}

// readBootFiles reads the files that the loader loads for an entry.
func (j *judge) readBootFiles(p *part, dir string, e klayout.Entry, files map[string][32]byte) error {
	if j.firmware == qemu.BIOS {
		if err := j.copyFAT(p, klayout.GrubKernelDir+"/"+e.ID+"/*", dir); err != nil {
			return err
		}
		for _, name := range []string{"vmlinuz", "initrd", "entry.cfg"} {
			b, err := os.ReadFile(filepath.Join(dir, klayout.GrubKernelDir, e.ID, name))
			if err != nil {
				return err
			}
			files[name+"/"+e.ID] = sha256.Sum256(b)
		}
		return nil
	}
	b, err := os.ReadFile(filepath.Join(dir, klayout.UKIDir, e.String()))
	if err != nil {
		return err
	}
	// What the boot menu shows of it changes with its role, a sector at a time.
	plain, err := uki.Replace(b, uki.OSRel, klayout.EntryOSRelease("", ""))
	if err != nil {
		return err
	}
	files["uki/"+e.ID] = sha256.Sum256(plain)
	sections, err := uki.Sections(b)
	if err != nil {
		return err
	}
	for _, want := range []string{uki.Linux, uki.Initrd, uki.Cmdline} {
		if !slices.ContainsFunc(sections, func(s uki.Section) bool { return s.Name == want && len(s.Data) > 0 }) {
			return fmt.Errorf("no section %s", want)
		}
	}
	return nil
}

// blobKey is a blob's content and what a release says of it.
type blobKey struct {
	layer klayout.Layer
	sum   uint64
}

var seed = maphash.MakeSeed()

// checkStore verifies each release in a store, as [store.Store.VerifyRelease] does; blobs with bytes that
// were verified before are not verified again.
func (j *judge) checkStore(dir string) (map[string]error, error) {
	s := store.New(dir)
	found, err := s.Releases()
	if err != nil {
		return nil, err
	}
	releases := map[string]error{}
	for _, f := range found {
		releases[f.ID] = f.Err
		if f.Err != nil {
			continue
		}
		for _, layer := range f.Release.Layers {
			if err := j.checkLayer(s, layer); err != nil {
				releases[f.ID] = err
				break
			}
		}
	}
	return releases, nil
}

func (j *judge) checkLayer(s *store.Store, layer klayout.Layer) error {
	have, ok, err := s.Layer(layer.DiffID)
	if err != nil {
		return err
	}
	if !ok || have != layer {
		return fmt.Errorf("layer %s: %w", layer.DiffID, fs.ErrNotExist)
	}
	f, err := s.OpenBlob(layer.DiffID)
	if err != nil {
		return err
	}
	defer f.Close()
	var h maphash.Hash
	h.SetSeed(seed)
	if _, err := io.Copy(&h, f); err != nil {
		return err
	}
	key := blobKey{layer, h.Sum64()}
	problem, ok := j.blobs[key]
	if !ok {
		problem = s.VerifyBlob(layer)
		j.blobs[key] = problem
	}
	return problem
}
