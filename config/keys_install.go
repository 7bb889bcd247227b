package config

import (
	"fmt"
	"path"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
)

func installKey() *Key {
	return object(
		"install",
		"How the system is installed. A raw or qcow2 disk is made with the same settings.",
		key("auto", tBool, "Whether the medium installs when it starts, without asking."),
		key(
			"device",
			tString,
			"The disk: auto (the largest one), a path, or script:// and a program that prints a path.",
		).checked(checkDevice),
		key("source", tString, "The image to install in place of the medium's.").also("image"),
		key("reboot", tBool, "Whether the machine restarts after it."),
		key("poweroff", tBool, "Whether the machine powers off after it."),
		key(
			"no-format",
			tBool,
			"Whether the partitions, and what OEM and PERSISTENT hold, are kept.",
		).also("no_format"),
		key("force", tBool, "Whether an installation goes over a Kairos system that the disk holds: "+
			"one with no-format, or an unattended one.").
			differs("without it a medium that stays in the drive starts what it has installed, or waits for a person"),
		partitionsKey(),
		list(
			"extra-partitions",
			"Partitions after the six. They are made, and not mounted.",
			&Key{Type: tObject, Keys: extraPartitionKeys()},
		).also("extra_partitions"),
		mountPaths("bind_mounts", "Paths that keep what is written there."),
		mountPaths("ephemeral_mounts", "Paths that take writes until the next boot."),
		object(
			"grub_options",
			"Settings of the boot loader.",
			key(
				"extra_cmdline",
				tString,
				"Words for the kernel's command line, under UEFI and BIOS.",
			).checked(oneLine).
				differs("they are part of the boot files of every release, also of later ones"),
			refused(
				"extra_active_cmdline",
				"a release has one command line in each of its places: write extra_cmdline",
			),
			refused(
				"extra_passive_cmdline",
				"a release has one command line in each of its places: write extra_cmdline",
			),
			refused(
				"extra_recovery_cmdline",
				"a release has one command line in each of its places: write extra_cmdline",
			),
			ignored("default_menu_entry", tString, "entries have the image's name and version"),
			ignored(
				"default_fallback",
				tString,
				"the loader counts tries, and falls back to the passive release and then to recovery",
			),
			refused("next_entry", "use `kairos-apply boot`, or `kairos-apply rollback`, on the node"),
			refused("saved_entry", "use `kairos-apply boot`, or `kairos-apply rollback`, on the node"),
		),
		ignored("grub-entry-name", tString, "entries have the image's name and version"),
		systemImage("system", "The active system.", "The image to install in place of the medium's."),
		systemImage("recovery-system", "The recovery system.", "The image of the recovery system.").
			differs("its size is that of its layers"),
		ignored("passive", tAny, sizesWhy),
		refused("extra-dirs-rootfs", "make the folders in the image's Dockerfile, or name them in bind_mounts"),
		refused("bundles", "install what they bring in the image's Dockerfile"),
		key("env", tEnv, "Variables of the stages around the installation, and of the program of script://.").secret(),
		ignored("nousers", tBool, "a config without users is installed in any case: the image may have its own"),
		key("ssh_hardening", tBool, "Whether SSH takes keys alone. A user with ssh_authorized_keys has to be there.").
			differs("it is applied at each boot, and taken back by a config without it"),
		list(
			"encrypted_partitions",
			"The partitions that are encrypted.",
			key("", tString, "").oneOf(layout.LabelOEM, layout.LabelPersistent, "oem", "persistent"),
		).also("encrypted-partitions").
			differs("the installation makes a recovery key, which the console asks for at each start; "+
				"extra partitions are not among them"),
		ignored("skip_copy_kcrypt_plugin", tBool, "there are no plugins to copy"),
		ignored("part-table", tString, "it is always GPT"),
		ignored("firmware", tString, "the disk boots under UEFI and BIOS"),
		refused("cloud-init", "write it into the config of the medium, or into stages of it"),
		ignored("skip-entries", tAny, "there are an active, a passive and a recovery release"),
		ignored("iso", tString, "the medium that runs is installed: for another image write source"),
		ignored("allow-insecure-registries", tAny, insecureWhy),
		ignored("tty", tString, "for a serial console write grub_options.extra_cmdline: console=ttyS0"),
	)
}

// noServer is why no key comes from elsewhere.
const noServer = "neither a server nor a TPM opens encrypted partitions: a recovery key or passphrase does, see " +
	"install.encrypted_partitions"

func partitionsKey() *Key {
	k := object("partitions", "The partitions of the disk.")
	for _, p := range []string{"efi", "oem", "recovery", "state", "persistent"} {
		fs := key("fs", tString, "Its file system.").oneOf("ext4").differs("it is ext4, which the boot relies on")
		if p == "efi" {
			fs = key("fs", tString, "Its file system.").oneOf("vfat").differs("it is vfat, which firmware reads")
		}
		size := key("size", tSize, "Its size in MiB; 0 is the default.")
		if p == "persistent" {
			size = key("size", tSize, "Its size in MiB; 0 is the rest of the disk, which is the default.")
		}
		k.Keys = append(k.Keys, object(p, "The partition "+p+".", size, fs,
			ignored("name", tString, "names of partitions are fixed"), ignored("label", tString, "labels are fixed"),
			ignored("flags", tAny, "flags are fixed")))
	}
	k.Keys = append(k.Keys, refused("bios", "it is 1 MiB, as GRUB needs it: leave it out"))
	return k
}

func extraPartitionKeys() []*Key {
	return []*Key{
		key("name", tString, "Its name in the partition table.").checked(func(v *Value) (string, string) {
			if n := v.Text(); n == "" || len(n) > 36 || strings.ContainsAny(n, " /\t") {
				return fmt.Sprintf("%s is no name of a partition", v.kind()), "use up to 36 letters, without spaces"
			}
			return "", ""
		}),
		key("label", tString, "The file system's label.").checked(func(v *Value) (string, string) {
			if n := v.Text(); len(n) > 16 || strings.HasPrefix(n, "COS_") {
				return fmt.Sprintf(
					"%s is no label for it",
					v.kind(),
				), "use up to 16 letters that do not begin with COS_"
			}
			return "", ""
		}),
		key("size", tSize, "Its size in MiB; 0 is the rest of the disk, where persistent has a size."),
		key(
			"fs",
			tString,
			"Its file system: ext4, vfat, or none.",
		).oneOf("ext4", "ext2", "ext3", "vfat", "fat32", "none").
			differs("ext2 and ext3, and where it is not said, are ext4"),
		ignored("partition_label", tString, "its name is what name says"),
		ignored("flags", tAny, "partitions of data have no flags"),
		ignored("uuid", tString, "identifiers are made for each disk"),
	}
}

func mountPaths(name, doc string) *Key {
	return list(name, doc, (&Key{}).checked(func(v *Value) (string, string) {
		p := strings.TrimSuffix(v.Text(), "/")
		switch p {
		case "", "/usr", "/proc", "/sys", "/dev", "/run":
			return fmt.Sprintf("%s would hide the system", v.kind()), "name a path below it"
		}
		if !path.IsAbs(p) || path.Clean(p) != p {
			return fmt.Sprintf("%s is no clean absolute path", v.kind()), "begin with /, without .."
		}
		return "", ""
	}))
}

func checkDevice(v *Value) (string, string) {
	d := v.Text()
	if script, ok := strings.CutPrefix(d, "script://"); ok && script != "" {
		return "", ""
	}
	if d != "auto" && (!strings.HasPrefix(d, "/dev/") || path.Clean(d) != d) {
		return fmt.Sprintf(
			"%s is no disk",
			v.kind(),
		), "write auto, a path such as /dev/sda, or script:// and a program"
	}
	return "", ""
}
