package exporter

import (
	"bytes"
	"context"
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/sparse"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
)

// ISO writes a live medium for the image to w, in one pass from its first byte to its last.
//
//	/kairos/blobs/…  /kairos/releases/<id>/release.json     the store
//	/kairos/config.yaml                                     cloud-config, where one was given
//	/boot/vmlinuz /boot/initrd /boot/grub/grub.cfg          for BIOS (amd64)
//	EFI system partition: systemd-boot, its menu, and the UKI
func ISO(ctx context.Context, w io.Writer, img image.Image, o Options) error {
	return Export(ctx, w, img, FormatISO, o)
}

func writeISO(ctx context.Context, w io.Writer, img image.Image, o Options) error {
	if o.Size != 0 || o.SectorSize != 0 || o.Compress != "" {
		return errors.New(
			"size= and compress= are for disks: an ISO is as large as it has to be, and its layers are compressed",
		)
	}
	p, err := prepare(ctx, img, o)
	if err != nil {
		return err
	}
	defer p.Close()
	medium, err := p.iso()
	if err != nil {
		return err
	}
	const step = "writing ISO"
	done := o.step(step)
	return done(medium.WriteTo(ctx, &countingWriter{w: w, report: func(n int64) { o.bytes(step, n, medium.Size) }}))
}

// iso lays the medium out.
func (p *prepared) iso() (*sparse.Image, error) {
	now := p.options.epoch(p.Image)
	files, err := p.storeFiles()
	if err != nil {
		return nil, err
	}
	for i := range files {
		files[i].Path = path.Join(layout.LiveRoot, files[i].Path)
	}
	if len(p.options.CloudConfig) > 0 {
		files = append(files, filetree.Bytes(layout.LiveCloudConfig, p.options.CloudConfig))
	}
	loader, err := layout.EFIDefaultPath(p.Config.Architecture)
	if err != nil {
		return nil, err
	}
	// The volume's serial number may be anything, but not another one for the same image.
	var serial uint32
	fmt.Sscanf(p.ConfigDigest.Hex()[:8], "%x", &serial)
	efi := fat.FileSystem{
		Label:  layout.LabelESP,
		Serial: serial,
		Time:   now,
		Files:  []filetree.File{filetree.Bytes(loader, p.loader), filetree.Bytes(layout.LiveUKI, p.boot.UKI)},
	}
	loaderFiles := liveMenu(p.menuName())
	p.addEnrolment(loaderFiles)
	for name, text := range loaderFiles {
		efi.Files = append(efi.Files, filetree.Bytes(name, text))
	}
	slices.SortFunc(efi.Files[2:], func(a, b filetree.File) int { return strings.Compare(a.Path, b.Path) })
	// The UKI is in its layer's blob, too, most of it uncompressed: that blob lies in the EFI system partition,
	// and there is one copy of what both have.
	if i, ok := p.layerOf(layout.ImageUKI); ok {
		name := path.Join(layout.LiveRoot, layout.BlobPath(p.blobs[i].DiffID))
		at := slices.IndexFunc(files, func(f filetree.File) bool { return f.Path == name })
		efi.Beside = &files[at]
	}
	iso := disk.ISO{Volume: layout.LabelLive, Time: now}
	if iso.EFI, err = efi.Image(); err != nil {
		return nil, err
	}
	for _, f := range files {
		if efi.Beside != nil && f.Path == efi.Beside.Path {
			iso.Shared = append(iso.Shared, disk.Shared{Path: f.Path, Parts: iso.EFI.Parts(f.Path, 0, f.Size)})
			continue
		}
		iso.Files = append(iso.Files, f)
	}
	if p.Config.Architecture == "amd64" {
		if err := p.addBIOS(&iso); err != nil {
			return nil, err
		}
	}
	return iso.Image()
}

// addBIOS adds GRUB, and what it loads.
func (p *prepared) addBIOS(iso *disk.ISO) (err error) {
	if iso.BootHybrid, err = bounded.ReadFile(p.root, layout.ImageGrubDir+"/boot_hybrid.img", maxText); err != nil {
		return fmt.Errorf("boot layer: %w", err)
	}
	if iso.ElTorito, err = bounded.ReadFile(p.root, layout.ImageGrubDir+"/eltorito.img", maxText); err != nil {
		return fmt.Errorf("boot layer: %w", err)
	}
	cmdline, err := p.cmdline()
	if err != nil {
		return err
	}
	iso.Files = append(iso.Files, filetree.Bytes(layout.LiveGrubConfig, liveGrubConfig(cmdline, p.menuName())))
	p.addShared(iso, layout.ImageKernel, ".linux", p.boot.Kernel)
	p.addShared(iso, layout.ImageInitrd, ".initrd", p.boot.Initrd)
	return nil
}

// liveMenu is systemd-boot's menu on a live medium, by file: entries for profiles of the one UKI.
func liveMenu(name string) map[string][]byte {
	files := map[string][]byte{layout.LoaderConfig: []byte(layout.LiveLoaderConfigText)}
	for _, c := range layout.LiveChoices(name) {
		files[c.EntryPath()] = c.EntryText()
	}
	return files
}

// addEnrolment adds the keys that systemd-boot gives a firmware in setup mode.
func (p *prepared) addEnrolment(files map[string][]byte) {
	s := p.secureBoot
	if s == nil || s.Enrolment == nil {
		return
	}
	for variable, b := range s.Enrolment {
		files[path.Join(layout.LoaderKeysDir, variable+".auth")] = b
	}
	files[layout.LoaderConfig] = fmt.Appendf(files[layout.LoaderConfig], "secure-boot-enroll %s\n", s.Enroll)
}

// menuName is the image's name in boot menus.
func (p *prepared) menuName() string {
	osRelease, _ := bounded.ReadFirst(p.root, maxText, layout.OSRelease, layout.OSReleaseVendor)
	return layout.EntryName(osRelease, p.version())
}

// addShared adds a file that is also a section of the UKI. Where the bytes are the same, and
// begin at a sector, they are on the medium once.
//
// GRUB (2.12, grub-core/fs/iso9660.c) reads too far where a read begins within one extent of a file and ends
// in another. It reads an initrd in one go, from its beginning, but a kernel in several.
func (p *prepared) addShared(iso *disk.ISO, path, section string, data []byte) {
	if f, err := pe.NewFile(bytes.NewReader(p.boot.UKI)); err == nil {
		if s := f.Section(section); s != nil {
			begin := int64(s.Offset)
			same := bytes.HasPrefix(p.boot.UKI[min(begin, int64(len(p.boot.UKI))):], data)
			shared := disk.Shared{Path: path, Parts: iso.EFI.Parts(layout.LiveUKI, begin, int64(len(data)))}
			whole := len(shared.Parts) == 1 || len(shared.Parts) > 1 && path == layout.ImageInitrd
			if same && whole && shared.Check(iso.EFI) == nil {
				iso.Shared = append(iso.Shared, shared)
				return
			}
		}
	}
	iso.Files = append(iso.Files, filetree.Bytes(path, data))
}

// storeFiles lists the files of a store with the image as its one release.
func (p *prepared) storeFiles() ([]filetree.File, error) {
	release := p.release()
	b, err := release.Marshal()
	if err != nil {
		return nil, err
	}
	files := []filetree.File{filetree.Bytes(layout.ReleasePath(release.ID()), b)}
	if len(release.Signatures) > 0 {
		files = append(files, filetree.Bytes(layout.ReleaseSignaturesPath(release.ID()), release.Signatures))
	}
	if len(release.BootSignatures) > 0 {
		files = append(files, filetree.Bytes(layout.ReleaseBootSignaturesPath(release.ID()), release.BootSignatures))
	}
	seen := map[layout.Digest]bool{}
	for _, blob := range p.blobs {
		if seen[blob.DiffID] {
			continue // an image may have the same layer twice
		}
		seen[blob.DiffID] = true
		size := blob.TotalSize()
		files = append(
			files,
			filetree.File{Path: layout.BlobPath(blob.DiffID), Size: size, Open: func() (io.ReadCloser, error) {
				return io.NopCloser(io.NewSectionReader(blob, 0, size)), nil
			}},
			filetree.Bytes(
				layout.SidecarPath(blob.DiffID),
				layout.Sidecar{RootHash: blob.RootHash, HashOffset: blob.Layer.Size}.Marshal(),
			),
		)
	}
	return files, nil
}

type countingWriter struct {
	w      io.Writer
	n      int64
	report func(int64)
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	c.report(c.n)
	return n, err
}
