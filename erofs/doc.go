// Package erofs makes EROFS images of container image layers, and reads them.
//
// EROFS is the kernel's read-only file system (kernel documentation: filesystems/erofs;
// on-disk format: fs/erofs/erofs_fs.h). [Convert] turns one layer, a tar archive, into one
// image in one pass: what the archive brings is stored as it comes, nothing is sought and
// nothing is read back.
//
// # The image
//
//	block 0      1024 bytes unused, superblock (128), record of the compression algorithm
//	block 1…     files' contents in the order of the archive; small files of a
//	             compressed image, together, as pieces of the "packed inode"
//	metadata     inodes in units of 32 bytes, each with its extended attributes, its block
//	             map and, where it is short, its content
//	directories  blocks of sorted entries, where they are not short
//
// Blocks have 4096 bytes. Inodes are laid out directory by directory, so that those which
// are listed together lie together. A record of an inode never crosses a block, unless it
// is longer than one.
//
//	inode      32 bytes (16-bit owner, the image's most common time) or 64
//	attributes 12 bytes, then entries of 4 + name + value
//	block map  of chunks or of compressed extents, see zindex.go
//	inline     content of symbolic links, short directories, the ends of files
//
// A file's content is stored in one of four ways:
//
//   - whole blocks, one after the other, the end (up to 2 KiB) with the inode;
//   - chunks of 64 KiB and more, some of which are holes: sparse files, and in an
//     uncompressed image zeros;
//   - compressed extents: chunks of 128 KiB to 1 MiB of the file, each compressed by
//     itself into whole blocks, or left as it is where that saves no block, and in programs
//     for UEFI. A chunk that occurs again is stored once;
//   - in the packed inode, a file without a name whose content is all small files, in
//     compressed extents. No small file crosses an extent. A file that occurs again is
//     stored once.
//
// Kernels: uncompressed images need Linux 5.15 (for holes; 5.4 without), LZ4 and Zstandard
// ones 6.1 and 6.10 for fragments, shared extents and the algorithm.
//
// # What a layer means
//
// As the OCI image specification (layer.md) and GNU tar have it. An entry replaces an
// earlier one of the same name; a directory keeps what is in it. Missing parent directories
// are made, root's, mode 0755, with a time of zero, and marked by trusted.kairos.implied for [FixUp]. Symbolic links
// to directories on the way are followed within the layer, and cannot lead out of it; a name that does is refused. A
// hard link shares the inode of an earlier entry. A whiteout becomes a character device 0:0, an opaque directory gets
// trusted.overlay.opaque=y, which is how overlayfs reads them; what this layer has itself is not hidden by its own
// whiteouts. Extended attributes that Linux has no name space for are left out.
//
// # Memory
//
// Buffers take some 10 MB, with compression 3 to 9 MB more for each worker, 110 MB at most.
// To them comes what is kept of each file until the metadata is written: about 300 bytes
// and its name, and for files smaller than 2 KiB in uncompressed images, or 128 bytes in
// compressed ones, their content, up to 32 MiB in all.
package erofs
