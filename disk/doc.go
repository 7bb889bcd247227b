// Package disk makes and reads media: ISO 9660 volumes, ext4 file systems, and GPT disks that
// hold them and FAT.
//
// Nothing here mounts, forks or needs a privilege. A medium is first laid out, which needs
// only the names and sizes of its files, and gives a [sparse.Image]: extents at known offsets,
// zero between them. The image is then written, to a stream or into a file or block device,
// and only then are the files opened and read, each once. Equal input gives equal bytes:
// times and identifiers are the caller's. That is why go-diskfs, which reads media and writes
// partition tables here, writes no file system: see DESIGN.md, "Media are read".
package disk
