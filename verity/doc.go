// Package verity makes, checks and reads dm-verity hash trees in the one form that Kairos
// uses: the tree follows the data in the same file.
//
//	0                    data: size bytes, whole blocks of 4096
//	size                 superblock, one block (512 bytes used)
//	size + 4096          level n-1, the block whose digest is the root hash
//	…                    level n-2, …
//	…                    level 0: the digests of the data blocks
//
// A digest is sha256(salt ‖ block) with 32 zero bytes of salt, and a hash block holds 128
// of them, zeros after the last. These are the parameters of containerd's EROFS
// snapshotter (DefaultDmverityOptions), and the bytes are those of
//
//	veritysetup format FILE FILE --hash-offset=SIZE --data-blocks=SIZE/4096 \
//	    --salt=00…00 --uuid=UUID
//
// Data of one block has no tree: the block's own digest is the root hash.
//
// References: the kernel's Documentation/admin-guide/device-mapper/verity.rst, and the
// superblock in cryptsetup's lib/verity/verity.c.
package verity
