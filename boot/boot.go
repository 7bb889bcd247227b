// Package boot makes an image's boot files out of the image's own kernel, and tells whether
// the boot files that an image has still fit the image.
//
// The frontend makes them when an image is built. An image that is derived from such an
// image by a plain Dockerfile can have another kernel, other modules or other settings: then
// whoever puts it on a medium or a disk sees that with [Check] and regenerates them with
// [Make], from the stub and the /init that the image carries in [layout.ImageBootDir].
package boot

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/kairos-buildkit/kairos/initrd"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki"
)

// Options are the settings that an image brings along as labels.
type Options struct {
	// Cmdline is added to the default kernel command line ([layout.ImageLabelCmdline]).
	Cmdline string
	// Modules are kernel modules to add to the initrd ([layout.ImageLabelModules]).
	Modules []string
	// Kernel chooses one of several kernels ([layout.ImageLabelKernel]).
	Kernel string
	// Trust is what is asked of a release that the image's keys have not signed ([layout.ImageLabelTrust]).
	Trust string
	// Enroll is when a firmware in setup mode gets its keys ([layout.ImageLabelEnroll]).
	Enroll string
	// Signatures is where the signatures of the boot files are ([layout.ImageLabelBootSignatures]).
	Signatures string

	// Detached are those signatures, the content of [layout.ReleaseBootSignaturesPath], where they are known. It is no
	// label.
	Detached []byte
	// Key is the private key of [layout.ImageSecureBootCert], and PCRKey that of [layout.ImagePCRKey], both PEM. They
	// are there when an image is built, and no labels.
	Key, PCRKey []byte
}

// OptionsFrom returns the options that an image's labels ask for.
func OptionsFrom(labels map[string]string) Options {
	return Options{
		Cmdline: labels[layout.ImageLabelCmdline],
		Modules: strings.FieldsFunc(
			labels[layout.ImageLabelModules],
			func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' },
		),
		Kernel: labels[layout.ImageLabelKernel],
		Trust:  labels[layout.ImageLabelTrust],
		Enroll: labels[layout.ImageLabelEnroll],

		Signatures: labels[layout.ImageLabelBootSignatures],
	}
}

// sharedChunk is where the initrd begins in the UKI: at one of the chunks that package erofs
// cuts files into. /boot/initrd has the same chunks, so the blob has them once. (The kernel is
// once in the boot layer: /boot/vmlinuz is a link.)
const sharedChunk = 128 << 10

// Files are the boot files of an image.
type Files struct {
	Kernel []byte // layout.ImageKernel
	Initrd []byte // layout.ImageInitrd
	UKI    []byte // layout.ImageUKI
	// KernelPath is the file in the image that Kernel was read from. Where KernelIsFile, the two
	// are equal, and layout.ImageKernel can be a link to it.
	KernelPath   string
	KernelIsFile bool
	// Cmdline is the kernel command line, the one in the UKI.
	Cmdline  string
	Manifest Manifest
}

// Make makes the boot files of the image whose tree root is. The tree has to have /init and
// the stub in [layout.ImageBootDir].
//
// Equal kernels, modules and settings give equal files, whatever else is in the image.
//
// Where the image has a certificate for Secure Boot, the UKI is signed. Without the key it is [ErrNoKey], unless
// the image has that very UKI already, signed, or its boot files are signed apart: then it has the signature of
// [Options.Detached], if that has one. The same is with its signatures for a TPM, and [ErrNoPCRKey].
func Make(root fs.FS, o Options) (*Files, error) {
	t := tree{root}
	in, err := t.inputs(o)
	if err != nil {
		return nil, err
	}
	ramdisk, err := initrd.Make(in.init, in.modules, in.trust)
	if err != nil {
		return nil, err
	}
	sections := []uki.Section{
		{Name: uki.OSRel, Data: layout.EntryOSRelease("", "")},
		{Name: uki.Cmdline, Data: []byte(in.cmdline)},
		{Name: uki.Uname, Data: []byte(in.kernel.Version)},
		{Name: uki.Initrd, Data: ramdisk, Align: sharedChunk},
		{Name: uki.Linux, Data: in.image},
	}
	sections = append(sections, profiles(in.cmdline)...)
	if sections, err = in.measured(t, sections, o.PCRKey); err != nil {
		return nil, err
	}
	program, err := uki.Append(in.stub, sections)
	if err != nil {
		return nil, fmt.Errorf("make the UKI: %w", err)
	}
	if in.secureBoot != nil {
		if program, err = in.secureBoot.Sign(t.FS, layout.ImageUKI, program, o.Key); err != nil {
			return nil, err
		}
	} else if o.Key != nil {
		return nil, fmt.Errorf("secret %s: the image has no certificate of that key: copy it to /%s",
			layout.SecureBootSecret, layout.ImageSecureBootCert)
	}
	f := &Files{
		Kernel: in.image, Initrd: ramdisk, UKI: program,
		KernelPath: in.kernel.Path, KernelIsFile: digest(in.image) == in.kernelFile,
		Cmdline: in.cmdline, Manifest: in.manifest(),
	}
	if in.kernel.Path == layout.ImageKernel {
		f.Manifest.Kernel.Digest = digest(f.Kernel) // which takes the place of the file that it came from
	}
	f.Manifest.Outputs = map[string]string{
		layout.ImageKernel: digest(f.Kernel), layout.ImageInitrd: digest(f.Initrd), layout.ImageUKI: digest(f.UKI),
	}
	return f, nil
}

// profiles are the sections of the UKI's profiles.
func profiles(cmdline string) (sections []uki.Section) {
	sections = append(sections, uki.Section{Name: uki.Profile, Data: []byte("ID=main\n")}) // what is before it
	for _, p := range layout.Profiles() {
		sections = append(sections, uki.Section{Name: uki.Profile, Data: p.Section()})
		if p.Hidden {
			sections = append(sections, uki.Section{Name: uki.OSRel, Data: []byte(layout.HiddenOSRelease)})
		}
		sections = append(sections, uki.Section{Name: uki.Cmdline, Data: []byte(cmdline + " " + p.Words)})
	}
	return sections
}

// inputs is all that the boot files are made from.
type inputs struct {
	kernel     Kernel
	kernelFile string // digest of the kernel's file
	image      []byte // the kernel, as an EFI program
	modules    *initrd.Selection
	init, stub []byte
	cmdline    string
	trust      []byte // layout.InitrdTrust, nil where there is none
	secureBoot *SecureBoot
	pcrKey     *rsa.PublicKey
}

func (t tree) inputs(o Options) (*inputs, error) {
	k, err := FindKernel(t.FS, o)
	if err != nil {
		return nil, err
	}
	if err := t.hasInit(); err != nil {
		return nil, err
	}
	in := &inputs{kernel: k}
	for name, b := range map[string]*[]byte{layout.ImageInit: &in.init, layout.ImageStub: &in.stub} {
		if *b, err = t.readFile(name, maxBootFile); err != nil {
			return nil, fmt.Errorf("the image has no boot layer (%w): build it with the Kairos frontend", err)
		}
	}
	arch, err := uki.Arch(in.stub)
	if err != nil {
		return nil, fmt.Errorf("/%s: %w", layout.ImageStub, err)
	}
	file, err := t.readFile(k.Path, maxKernel)
	if err != nil {
		return nil, err
	}
	in.kernelFile = digest(file)
	if in.image, err = t.readKernel(k, file); err != nil {
		return nil, err
	}
	if kernelArch, err := uki.Arch(in.image); err != nil {
		return nil, fmt.Errorf("kernel /%s: %w", k.Path, err)
	} else if kernelArch != arch {
		return nil, fmt.Errorf("kernel /%s is for %s, the boot layer for %s: build the image for one platform", k.Path,
			kernelArch, arch)
	}
	modules, err := t.sub(k.Modules)
	if err != nil {
		return nil, err
	}
	anchor, err := Trust(t.FS, o)
	if err != nil {
		return nil, err
	}
	if in.pcrKey, err = t.readPCRKey(); err != nil {
		return nil, err
	}
	var optional []string
	if anchor != nil && anchor.TPM || in.pcrKey != nil {
		optional = layout.TPMModules()
	}
	if in.modules, err = initrd.Select(modules, o.Modules, optional...); err != nil {
		return nil, fmt.Errorf("kernel %s: %w", k.Version, err)
	}
	words := defaultCmdline(arch)
	if k.hidesRuntime() {
		words += " efi=runtime"
	}
	cmdline, err := layout.ParseCmdline(words + " " + o.Cmdline).Portable()
	if err != nil {
		return nil, err
	}
	in.cmdline = cmdline.String()
	if in.trust, err = trustFile(anchor, in.cmdline); err != nil {
		return nil, err
	}
	if in.trust != nil && !bytes.Contains(in.init, []byte(layout.InitrdTrust)) {
		// An image that is derived from an older one: its keys would protect nothing, in silence.
		return nil, fmt.Errorf("/%s has keys, and the image's boot layer is of a version that checks no signatures: "+
			"build its base image again with this version", layout.ImageTrustDir)
	}
	if anchor != nil && anchor.TPM && !bytes.Contains(in.init, []byte(layout.FirmwareTPM)) {
		return nil, fmt.Errorf("/%s asks for the TPM, and the image's boot layer is of a version that does not read "+
			"it: build its base image again with this version", layout.ImageTrustPolicy)
	}
	if err := in.checkPCRKey(); err != nil {
		return nil, err
	}
	if in.secureBoot, err = ReadSecureBoot(t.FS, o); err != nil {
		return nil, err
	}
	return in, nil
}

// defaultCmdline returns the kernel command line of an image that asks for no other, for an
// architecture in OCI's words: screen and serial console, and a restart ten seconds after
// a panic so that the boot loader gets to count it. systemd is told not to rebuild the linker's
// cache and its own catalogs as after an update of /usr: the image has them, and as /etc and /var are
// new at every boot it would do so each time, for half a minute on a slow machine.
func defaultCmdline(arch string) string {
	serial := "ttyS0,115200"
	if arch == "arm64" {
		serial = "ttyAMA0"
	}
	return "console=tty0 console=" + serial + " panic=10 systemd.condition-needs-update=no"
}

// inits are what /init of the initrd starts.
var inits = []string{"sbin/init", "usr/lib/systemd/systemd", "lib/systemd/systemd", "etc/init", "bin/init"}

// FindInit returns the path of the program that /init starts in an image, without links in it.
func FindInit(root fs.FS) (string, error) {
	t := tree{root}
	for _, name := range inits {
		if t.isFile(name) {
			return t.resolve(name)
		}
	}
	return "", errors.New(
		"the image has no init (/sbin/init or /usr/lib/systemd/systemd): install one, " +
			"such as Debian's systemd-sysv, Fedora's systemd, or Alpine's openrc",
	)
}

func (t tree) hasInit() error {
	if _, err := FindInit(t.FS); err != nil {
		return err
	}
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys", "var"} {
		if !t.isDir(dir) {
			return fmt.Errorf(
				"the image has no folder /%s, which the kernel's interfaces need: add it (RUN mkdir /%s)",
				dir,
				dir,
			)
		}
	}
	return nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
