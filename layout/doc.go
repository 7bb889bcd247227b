// Package layout owns every name that two parts of Kairos must agree on: partition
// and volume labels, paths in a store, release.json, boot entry names, the boot
// manifest inside an image and kernel command-line keys.
//
// Everything here is a value with a parser and its inverse. The package does no
// I/O, imports only the standard library, and is imported by all the others.
//
// # A store
//
// STATE, RECOVERY and the live medium (below [LiveRoot]) hold the same tree:
//
//	blobs/sha256/<xx>/<hex>.erofs            one layer: EROFS image, dm-verity superblock, dm-verity tree
//	blobs/sha256/<xx>/<hex>.erofs.dmverity   sidecar in containerd's format, see [Sidecar]
//	releases/<id>/release.json               one bootable version, see [Release]
//	releases/<id>/release.sig                its signatures, see [ReleaseSignaturesPath]
//	releases/<id>/boot.sig                   those of its boot files, see [ReleaseBootSignaturesPath]
//	releases/<id>/image                      where it was taken from, see [ReleaseOriginPath]
//
// <hex> is the layer's diffID without its algorithm, <xx> its first two digits. It is the
// layer content cache of containerd's EROFS snapshotter (2.4 and later), so that
// containerd uses the same files.
package layout
