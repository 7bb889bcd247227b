// Package node installs, upgrades and assesses a machine. It is what the command
// kairos-apply does; that command only adds flags, a terminal and exit codes.
//
// # What decides what boots
//
// On UEFI the names of the files in EFI/Linux, see [layout.Entry]; on BIOS GRUB's
// environment, see [layout.GrubState]. Both have the same meaning, and whichever the
// machine does not use is kept as a copy. Roles are derived from them, never stored:
//
//	active    the release that the loader tries first
//	passive   the one that it tries next
//	recovery  the one that it tries when no other is left
//	failed    one that used up its tries
//
// # Order of an upgrade
//
// Every step is on the disk before the next one begins:
//
//	layers      STATE/blobs          each under a temporary name, checked, renamed
//	release     STATE/releases/<id>
//	BIOS files  ESP/kairos/<id>      kernel, initrd, command line
//	UKI         ESP/EFI/Linux        under a name that no loader looks at
//	            one sector of the folder is written: the name ends in .efi now   ← commit on UEFI
//	grubenv     ESP/grub             one sector                                  ← commit on BIOS
//	leftovers   releases that no role needs, and their layers
//
// A machine that stops anywhere boots a complete release, and the same command works again.
package node
