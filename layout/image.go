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

	// ImageBootDir holds what it takes to make the boot files anew for another kernel:
	// /init, the systemd stub, the boot loaders.
	ImageBootDir      = "usr/lib/kairos/boot"
	ImageInit         = ImageBootDir + "/init"
	ImageStub         = ImageBootDir + "/stub.efi"
	ImageSystemdBoot  = ImageBootDir + "/systemd-boot.efi"
	ImageGrubDir      = ImageBootDir + "/grub" // boot.img, core.img, boot_hybrid.img, eltorito.img; amd64 only
	ImageBootManifest = ImageBootDir + "/manifest.json"

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
	// ImageLabelCompression chooses the layers' compression: zstd, lz4 or none.
	ImageLabelCompression = "io.kairos.compression"
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
