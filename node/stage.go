package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/node/fetch"
	"github.com/kairos-buildkit/kairos/release/blocks"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/uki"
)

// staged is a release that is complete in a store, and what it boots from.
type stagedRelease struct {
	release  layout.Release
	files    loader.BootFiles
	transfer api.Transfer
	// recoveryTrial says that the image ends a trial as a recovery system by itself.
	recoveryTrial bool
}

// bootFacts are what a release's record says of its boot files.
type bootFacts struct {
	version string        // as [layout.ReleaseVersion] has it
	uki     layout.Digest // Authenticode digest of the UKI
	v1      bool          // /init reads release.json in the first format only
	anchor  *trust.Anchor // what /init trusts; nil: whatever is there
	// secureBoot has the certificate of the key that has signed loader and UKI; nil: nobody has to.
	secureBoot *boot.SecureBoot
	loader     []byte // systemd-boot
	// detached are the signatures on loader and UKI that are apart from the image.
	detached []byte
	// recoveryTrial is as in stagedRelease.
	recoveryTrial bool
	// encryption says that kernel and /init open encrypted partitions.
	encryption bool
}

// stage brings an image into a store: missing layers, then release.json. Nothing that
// boots today is touched.
func (m *Machine) stage(
	ctx context.Context,
	e *fetch.Engine,
	s *store.Store,
	img *source.Image,
	maxContent int64,
	progress Progress,
) (*stagedRelease, error) {
	if err := readableBefore(s, img); err != nil {
		return nil, err
	}
	if err := m.repairShared(ctx, s, img, progress); err != nil {
		return nil, err
	}
	listed, err := m.listed()
	if err != nil {
		return nil, err
	}
	beside, err := m.stageFrom(ctx, e, s, img, progress)
	if err != nil {
		return nil, err
	}
	var moved blocks.Stats
	if beside != nil {
		if moved, err = m.fetch(ctx, e, s, beside, progress); err != nil {
			if ctx.Err() != nil || isNoSpace(err) || isReadOnly(err) {
				return nil, err
			}
			progress.note(fmt.Sprintf("the release beside the image cannot be had, its layers are converted: %v", err))
			beside = nil
		}
	}
	before := e.Fetched()
	layers, err := m.stageLayers(ctx, s, img, maxContent, progress) // what is there already stays
	moved.Fetched += e.Fetched() - before
	if tooLarge := (*erofs.ContentError)(nil); errors.As(err, &tooLarge) {
		return nil, refuse("%v: if the image is meant to be that large, say so with --max-content SIZE", err)
	}
	if err != nil {
		return nil, err
	}
	layers, err = s.FixUp(ctx, layers, erofs.Options{Compression: compressionFor(img.Config.Config.Labels)})
	if err != nil {
		return nil, refuse("the image's layers cannot be stacked: %v", err)
	}
	if beside != nil && !slices.Equal(layers, beside.Release.Layers) {
		progress.note("the release beside the image has another layer that sets directories right: it is not used")
		beside = nil
	}
	release := img.Release(layers)
	if release.BootSignatures, err = bootSignaturesOf(ctx, img); err != nil {
		return nil, err
	}
	here := withCmdline(release, m.config().Install())
	files, facts, err := m.bootFiles(s, here, progress)
	if err != nil {
		return nil, err
	}
	here.UKI = facts.uki
	if !maps.Equal(here.Labels, release.Labels) {
		// This node's boot files are its own; the release has the image's.
		if _, facts, err = m.bootFiles(s, release, nil); err != nil {
			return nil, err
		}
	}
	if facts.version != "" {
		release.Version = facts.version
	}
	release.UKI = facts.uki
	made := img.Made != nil && len(img.Made.Signatures) > 0 && slices.Equal(layers, img.Made.Layers)
	if made {
		release = *img.Made
	}
	if beside != nil {
		release = beside.Release
	}
	release.Image, release.BootSignatures = img.Ref, facts.detached
	if facts.v1 {
		release = release.AsV1()
	} else if beside != nil || made {
		// Its format is what its publisher says.
	} else if release.Format, err = m.formatIn(s, release, listed); err != nil {
		return nil, err
	}
	if release.Signatures, err = m.signaturesOf(ctx, img, release, facts.anchor); err != nil {
		return nil, err
	}
	if err := m.trusted(release, facts.anchor, here.UKI, progress, m.roleOf(s)); err != nil {
		return nil, err
	}
	if err := m.startable(release, files.UKI, facts); err != nil {
		return nil, err
	}
	progress.step(api.StepRelease, release.ID())
	if len(img.Accepted) > 0 {
		b, err := json.Marshal(img.Accepted)
		if err == nil {
			err = s.SetAcceptance(release.ID(), b)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := s.AddRelease(release); err != nil {
		return nil, err
	}
	return &stagedRelease{release, files, transfer(moved), facts.recoveryTrial}, nil
}

func (m *Machine) stageLayers(
	ctx context.Context,
	s *store.Store,
	img *source.Image,
	maxContent int64,
	progress Progress,
) ([]layout.Layer, error) {
	var layers []layout.Layer
	o, err := m.conversion(s, maxContent)
	if err != nil {
		return nil, err
	}
	o.Compression = compressionFor(img.Config.Config.Labels)
	for n, l := range img.Layers {
		layer, ok, err := s.Layer(l.DiffID)
		if err != nil {
			return nil, err
		}
		if !ok {
			name := fmt.Sprintf("%s (%d of %d)", l.DiffID.Short(), n+1, len(img.Layers))
			progress := progress.layer(name, l.DiffID)
			progress(0)
			if layer, err = addLayer(ctx, s, l, o, progress); err != nil {
				return nil, err
			}
		}
		layers = append(layers, layer)
	}
	return layers, nil
}

func addLayer(
	ctx context.Context,
	s *store.Store,
	l image.Layer,
	o erofs.Options,
	progress func(int64),
) (layout.Layer, error) {
	if l.Blob != nil {
		return copyLayer(ctx, s, l.Blob, progress)
	}
	r, err := l.Open(ctx)
	if err != nil {
		return layout.Layer{}, fmt.Errorf("layer %s: %w", l.DiffID, err)
	}
	defer r.Close()
	return s.AddLayer(ctx, l.DiffID, &countedReader{r: r, progress: progress}, o)
}

// conversion bounds what an image's new layers may have in all; 0 is what the store's partition may hold.
func (m *Machine) conversion(s *store.Store, maxContent int64) (erofs.Options, error) {
	if maxContent == 0 {
		have, err := m.freeBytes(s.Dir())
		if err != nil {
			return erofs.Options{}, err
		}
		maxContent = store.MaxContent(have)
	}
	return erofs.Options{MaxContent: maxContent, Budget: erofs.NewBudget(maxContent)}, nil
}

// What is read of an image's files into memory is bounded, in bytes: a file may be a hole of terabytes.
const (
	maxText     = 16 << 20
	maxKernel   = 256 << 20
	maxBootFile = 1 << 30 // kernel and initrd, in a UKI
)

// readImageFile reads a file of an image, and refuses the image where the file is larger than that.
func readImageFile(tree fs.FS, name string, limit int64) ([]byte, error) {
	b, err := bounded.ReadFile(tree, name, limit)
	if tooLarge := (*bounded.SizeError)(nil); errors.As(err, &tooLarge) {
		return nil, refuse("the image cannot boot: %v", err)
	}
	return b, err
}

// readBootFiles takes a release's boot files out of its layers, or regenerates them where they
// do not fit the image's kernel any more.
func readBootFiles(s *store.Store, r layout.Release, progress Progress) (loader.BootFiles, bootFacts, error) {
	var files loader.BootFiles
	var facts bootFacts
	progress.step(api.StepBootFiles, "")
	tree, err := s.Tree(r.Layers)
	if err != nil {
		return files, facts, err
	}
	defer tree.Close()
	b, err := readImageFile(tree, layout.ImageRelease, maxText)
	if refused := (*RefusedError)(nil); errors.As(err, &refused) {
		return files, facts, err
	}
	if err != nil {
		b = nil // it has none
	}
	facts.version = layout.ReleaseVersion(r.Labels, b)
	if _, err := fs.Stat(tree, layout.ImageStub); err != nil {
		return files, facts, refuse(
			"the image has no boot layer (/%s is missing): build it with the Kairos frontend (`# syntax=kairos`)",
			layout.ImageStub,
		)
	}
	o := bootOptions(r)
	fits, why, err := boot.Check(tree, o)
	if err != nil {
		return files, facts, refuse("the image cannot boot: %v", err)
	}
	kernel, err := boot.FindKernel(tree, o)
	if err != nil {
		return files, facts, refuse("the image cannot boot: %v", err)
	}
	if err := readable(s, r.Layers, "the image's kernel "+kernel.Version, kernel.Compression()); err != nil {
		return files, facts, err
	}
	if facts.secureBoot, err = boot.ReadSecureBoot(tree, o); err != nil {
		return files, facts, refuse("the image cannot boot: %v", err)
	}
	facts.loader, err = readLoader(tree, facts.secureBoot)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return files, facts, fmt.Errorf("the image's boot loader: %w", err)
	}
	facts.recoveryTrial, facts.encryption = boot.EndsRecoveryTrial(tree), boot.OpensEncrypted(tree)
	if facts.v1 = boot.ReadsRelease(tree) < layout.ReleaseSchema; fits {
		if files, err = imageBootFiles(tree); err == nil {
			if files.UKI, err = facts.secureBoot.Finish(layout.ImageUKI, files.UKI); err != nil {
				err = refuse("the image cannot boot: %v", err)
			}
		}
	} else {
		progress.note("regenerating the boot files: " + why)
		files, err = makeBootFiles(tree, o, why)
	}
	if err != nil {
		return files, facts, err
	}
	facts.detached, err = facts.secureBoot.Detached(map[string][]byte{
		layout.ImageUKI: files.UKI, layout.ImageSystemdBoot: facts.loader,
	})
	if err != nil {
		return files, facts, err
	}
	if err := finished(facts, files); err != nil {
		return files, facts, err
	}
	files.Name = menuName(tree, facts.version)
	digest, err := uki.Authenticode(files.UKI)
	if err != nil {
		return files, facts, refuse("the image cannot boot: /%s: %v", layout.ImageUKI, err)
	}
	facts.uki = layout.SHA256(digest)
	if facts.anchor, err = boot.Trust(tree, o); err != nil {
		return files, facts, refuse("the image cannot boot: %v", err)
	}
	return files, facts, nil
}

// finished refuses boot files whose signatures are apart from the image, and are not here: they must not take the
// place of signed ones.
func finished(facts bootFacts, files loader.BootFiles) error {
	if facts.secureBoot == nil || !facts.secureBoot.Apart {
		return nil
	}
	err := facts.secureBoot.CheckAll(map[string][]byte{
		layout.ImageUKI: files.UKI, layout.ImageSystemdBoot: facts.loader,
	})
	if err != nil {
		return refuse("the image cannot boot: %v", err)
	}
	return nil
}

func makeBootFiles(tree fs.FS, o boot.Options, why string) (loader.BootFiles, error) {
	made, err := boot.Make(tree, o)
	if errors.Is(err, boot.ErrNoKey) || errors.Is(err, boot.ErrNoPCRKey) {
		err = fmt.Errorf("%s: %w", why, err)
	}
	if err != nil {
		return loader.BootFiles{}, refuse("the image cannot boot: %v", err)
	}
	files := loader.BootFiles{UKI: made.UKI, Cmdline: made.Cmdline}
	if hasGrub(tree) {
		files.Kernel, files.Initrd = made.Kernel, made.Initrd
	}
	return files, nil
}

// menuName is an image's name in boot menus.
func menuName(tree fs.FS, version string) string {
	osRelease, _ := bounded.ReadFirst(tree, maxText, layout.OSRelease, layout.OSReleaseVendor)
	return layout.EntryName(osRelease, version)
}

func imageBootFiles(tree fs.FS) (f loader.BootFiles, err error) {
	if f.UKI, err = readImageFile(tree, layout.ImageUKI, maxBootFile); err != nil {
		return f, err
	}
	b, err := readImageFile(tree, layout.ImageBootManifest, maxText)
	if err != nil {
		return f, err
	}
	manifest, err := boot.ParseManifest(b)
	if err != nil {
		return f, err
	}
	f.Cmdline = manifest.Cmdline
	if !hasGrub(tree) {
		return f, nil
	}
	if f.Kernel, err = readImageFile(tree, layout.ImageKernel, maxKernel); err != nil {
		return f, err
	}
	f.Initrd, err = readImageFile(tree, layout.ImageInitrd, maxBootFile)
	return f, err
}

// hasGrub says whether an image can boot with GRUB: then its boot layer has GRUB's images.
func hasGrub(tree fs.FS) bool {
	_, err := fs.Stat(tree, layout.ImageGrubDir)
	return err == nil
}

// reserve is kept free on each partition, in bytes: for logs and for file system metadata.
const reserve = 8 << 20

// needed estimates the bytes that an image's missing layers take in a store. Compressed layers
// take about the same again as EROFS; uncompressed ones less.
func needed(s *store.Store, img *source.Image) (int64, error) {
	var n int64
	for _, l := range img.Layers {
		if _, ok, err := s.Layer(l.DiffID); err != nil {
			return 0, err
		} else if !ok {
			n += max(0, l.Stored+l.Stored/4-taken(s, l.DiffID))
		}
	}
	return n, nil
}

func mib(n int64) string { return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20) }
