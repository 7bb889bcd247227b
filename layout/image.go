package layout

// Paths inside an image, relative to its root.
const (
	// The three files that container-OS users expect in /boot.
	ImageKernel = "boot/vmlinuz"
	ImageInitrd = "boot/initrd"
	ImageUKI    = "boot/kairos.efi"

	// ImageRelease holds the KAIROS_* keys, in os-release(5) syntax.
	ImageRelease = "etc/kairos-release"
	// ImageApply is the node agent. When everything is mounted, and before it hands over to the
	// image's init, /init runs `kairos-apply config --boot` in the new root: that gives the
	// cloud-config to cloud-init, or does itself what it says. Its failure is shown, and does not
	// end the boot.
	ImageApply = "usr/bin/kairos-apply"

	// ImageAgent is a link to ImageApply: the same program with the commands of the Kairos project's agent.
	ImageAgent = "usr/bin/kairos-agent"

	// ImageBootDir holds what it takes to regenerate the boot files for another kernel:
	// /init, the systemd stub, the boot loaders.
	ImageBootDir      = "usr/lib/kairos/boot"
	ImageInit         = ImageBootDir + "/init"
	ImageStub         = ImageBootDir + "/stub.efi"
	ImageSystemdBoot  = ImageBootDir + "/systemd-boot.efi"
	ImageGrubDir      = ImageBootDir + "/grub"   // boot.img, core.img, boot_hybrid.img, eltorito.img; amd64 only
	ImageE2fsck       = ImageBootDir + "/e2fsck" // static: the checker of ext4, where the image has none
	ImageBootManifest = ImageBootDir + "/manifest.json"

	// ImageTrustDir holds the public keys whose signatures a release of the image needs, as PEM files *.pub, and
	// ImageTrustPolicy in it says how many of them, and more. Without a key there, nothing is asked for.
	ImageTrustDir    = "usr/lib/kairos/trust.d"
	ImageTrustPolicy = ImageTrustDir + "/policy.json"
	// InitrdTrust is what /init reads of it, in the initrd.
	InitrdTrust = "kairos/trust.json"
	// FirmwareTPM is there where the firmware says that the machine has a TPM 2.0: a table of ACPI ("TPM2", TCG ACPI
	// Specification 1.4), as Linux shows it. /init looks for it.
	FirmwareTPM = "sys/firmware/acpi/tables/TPM2"

	// ImageSecureBootDir holds ImageSecureBootCert, the certificate (PEM or DER) of the key that signs the image's
	// boot files for Secure Boot, and PK.auth, KEK.auth and db.auth, which give a firmware in setup mode its keys.
	// Without a certificate there, nothing is signed.
	ImageSecureBootDir  = "usr/lib/kairos/secureboot"
	ImageSecureBootCert = ImageSecureBootDir + "/db.crt"

	// ImagePCRKey is the public key of whoever says for which boot files a TPM unseals what is encrypted: PEM, RSA
	// 2048. Without one, the UKI says nothing of that.
	ImagePCRKey = "usr/lib/kairos/pcr.pub"

	// ImageShutdownHook is run by systemd at the very end, see systemd-shutdown(8).
	ImageShutdownHook = "usr/lib/systemd/system-shutdown/kairos"

	// ImageHealthDir and HealthDir hold health checks, the image's and the node's.
	ImageHealthDir = "usr/lib/kairos/health.d"
	HealthDir      = "etc/kairos/health.d"
)

// Labels of an image, set by LABEL in a Dockerfile and kept by images derived from it.
const (
	// ImageLabelCmdline adds words to the kernel command line.
	ImageLabelCmdline = "io.kairos.cmdline"
	// ImageLabelVersion is KAIROS_VERSION; org.opencontainers.image.version serves where it is absent.
	ImageLabelVersion = "io.kairos.version"
	// ImageLabelModules names kernel modules to add to the initrd, separated by spaces or commas.
	ImageLabelModules = "io.kairos.modules"
	// ImageLabelKernel chooses one of several kernels: its version, a pattern for it such as *-rt-*,
	// or its absolute path.
	ImageLabelKernel = "io.kairos.kernel"
	// ImageLabelCompression chooses the layers' compression: zstd, lz4 or none.
	ImageLabelCompression = "io.kairos.compression"
	// ImageLabelFormat is the format of the layers' blobs that fits the image's kernel, a [Format].
	// The frontend writes it, so that whoever converts a layer knows it before having the kernel.
	ImageLabelFormat = "io.kairos.format"
	// ImageLabelEpoch is the image's index against rollback, a number: see [ImageEpoch].
	ImageLabelEpoch = "io.kairos.epoch"
	// ImageLabelTrust is TrustWarn or TrustRequired, and goes before the mode of ImageTrustPolicy.
	ImageLabelTrust = "io.kairos.trust"
	// ImageLabelEnroll is when the boot loader on a live medium gives a firmware in setup mode the keys in
	// ImageSecureBootDir: EnrollIfSafe, EnrollManual or EnrollForce.
	ImageLabelEnroll = "io.kairos.secure-boot-enroll"
	// ImageLabelBootSignatures is BootSignaturesInRelease where the key of ImageSecureBootCert signs the boot files
	// apart from the build.
	ImageLabelBootSignatures = "io.kairos.secure-boot-signatures"
)

// BootSignaturesInRelease says that the signatures of an image's boot files are beside its release, and not in the
// image: see [ReleaseBootSignaturesPath].
const BootSignaturesInRelease = "release"

// When systemd-boot enrolls keys, in its own words (loader.conf, secure-boot-enroll).
const (
	EnrollIfSafe = "if-safe" // by itself in a virtual machine, else when a person chooses it in the menu
	EnrollManual = "manual"  // when a person chooses it in the menu
	EnrollForce  = "force"   // by itself, on each machine
)

// SecureBootSecret is the build's secret with the private key of ImageSecureBootCert.
const SecureBootSecret = "secureboot-key"

// PCRSecret is the build's secret with the private key of ImagePCRKey.
const PCRSecret = "pcr-key"

// What an image with keys in ImageTrustDir asks of a release that they have not signed.
const (
	TrustRequired = "required" // it is refused
	TrustWarn     = "warn"     // it is said, and goes on
)

// ImageVersion returns the version that an image's labels give it, "v0.0.0" where there is none.
func ImageVersion(labels map[string]string) string {
	for _, key := range []string{ImageLabelVersion, "org.opencontainers.image.version"} {
		if v := labels[key]; v != "" {
			return v
		}
	}
	return "v0.0.0"
}

// What a published release is in a registry: see docs/release-format.md.
const (
	// ReleaseType is the artifactType of a release's manifest, and the media type of its record, release.json.
	ReleaseType = "application/vnd.kairos.release.v2+json"
	// ReleaseBlobType is the media type of a layer's blob: EROFS image, dm-verity superblock and tree.
	ReleaseBlobType = "application/vnd.kairos.layer.v1.erofs"
	// SignaturesType is the media type of a release's signatures, which package trust reads.
	SignaturesType = "application/vnd.kairos.signatures.v1+json"
	// BootSignaturesType is the media type of the signatures of an image's boot files, which package uki/secureboot
	// reads.
	BootSignaturesType = "application/vnd.kairos.boot-signatures.v1+json"
	// BundleType is the artifactType of a bundle of sigstore's beside an image, and the media type of the bundle.
	BundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	// NotationType is the artifactType of a signature of notation's beside an image.
	NotationType = "application/vnd.cncf.notary.signature"
)

// TPMModules returns the drivers of TPMs 2.0 as far as firmware of PCs and servers presents them. An initrd has them
// where its trust.json asks for what the TPM holds, and where its UKI has signatures for the TPM.
func TPMModules() []string { return []string{"tpm_crb", "tpm_tis"} }
