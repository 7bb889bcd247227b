package initrd

// A requirement is something that the kernel must have, as a module or built in.
type requirement struct {
	module string
	what   string // for the error
	option string // of the kernel's configuration
}

// required is what every boot takes.
var required = []requirement{
	{"erofs", "EROFS", "CONFIG_EROFS_FS"},
	{"overlay", "overlayfs", "CONFIG_OVERLAY_FS"},
	{"dm_verity", "dm-verity", "CONFIG_DM_VERITY"},
	{"loop", "loop devices", "CONFIG_BLK_DEV_LOOP"},
}

// encrypts are what opens encrypted partitions: of each line one is enough. A kernel has AES by other names in each
// version.
var encrypts = [][]string{{"dm_crypt"}, {"xts"}, {"aes_generic", "aes", "libaes", "aes_ce_blk", "aesni_intel"}}

func requiredModules() []string {
	var names []string
	for _, r := range required {
		names = append(names, r.module)
	}
	return names
}

// byName are modules that /init loads by name when it needs them, as far as the kernel has
// them as modules.
var byName = []string{
	"isofs", "ext4", "vfat", "efivarfs", "efi_pstore", "dm_crypt",
}

// before names what to load ahead of a module, as modules.softdep would: names that the module
// makes the kernel ask modprobe for, of which there is none in an initrd. All modules that
// provide one are taken, those for a processor's instructions included.
var before = map[string][]string{
	"dm_verity": {"crypto-sha256"},
	"dm_crypt":  {"crypto-aes", "crypto-ecb", "crypto-xts", "crypto-xts(aes)"},
	"erofs":     {"crypto-crc32c"},
	"ext4":      {"crypto-crc32c"},
	"vfat":      {"nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"},
}

// drivers are loaded when a device that they drive appears. None needs firmware from a
// file: what does cannot work in an initrd without firmware files, and is left to the
// running system.
var drivers = []string{
	// Virtual machines.
	"virtio_pci", "virtio_mmio", "virtio_blk", "virtio_scsi",
	"hv_vmbus", "hv_storvsc", "pci_hyperv",
	"vmw_pvscsi", "mptspi", "mptsas",
	"xen_blkfront", "xen_scsifront", "xen_platform_pci",
	"sym53c8xx",
	// NVMe, SATA, PATA.
	"nvme", "nvme_apple", "vmd", "ahci", "ahci_platform", "ata_piix", "ata_generic", "sata_nv", "sata_sil",
	"sata_sil24", "sata_via", "sata_mv",
	// SCSI and RAID controllers of servers.
	"sd_mod", "sr_mod", "megaraid_sas", "mpt3sas", "mpi3mr", "hpsa", "smartpqi", "aacraid", "isci", "arcmsr",
	// USB.
	"xhci_pci", "xhci_plat_hcd", "ehci_pci", "ehci_platform", "ohci_pci", "ohci_platform", "uhci_hcd", "usb_storage",
	"uas",
	// MMC, SD and UFS.
	"mmc_block", "sdhci_pci", "sdhci_acpi", "sdhci_iproc", "sdhci_of_arasan", "sdhci_of_dwcmshc", "sdhci_tegra",
	"bcm2835",
	"dw_mmc_pltfm", "dw_mmc_rockchip", "meson_gx_mmc", "rtsx_pci", "rtsx_pci_sdmmc", "ufshcd_pci",
	// Host bridges and PHYs that these sit behind on small arm64 boards.
	"pcie_brcmstb", "reset_raspberrypi", "pcie_rockchip_host", "phy_rockchip_pcie", "phy_rockchip_naneng_combphy",
}
