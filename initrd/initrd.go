// Package initrd makes the initial RAM disk: one static program, /init, and the kernel
// modules that finding and mounting the root takes, chosen from the image's own kernel.
//
// The archive is a cpio in the "newc" format (kernel documentation:
// driver-api/early-userspace/buffer-format), compressed with zstd:
//
//	dev/console            so that /init has a standard output before devtmpfs is mounted
//	init
//	lib/modules/index      see package kmod
//	kairos/trust.json      whose releases it boots, where the image has keys: see package trust
//	lib/modules/<name>.ko  uncompressed: the archive's compression does better than theirs
//
// Equal inputs give equal bytes.
package initrd

import (
	"fmt"
	"path"

	"github.com/klauspost/compress/zstd"

	"github.com/kairos-buildkit/kairos/initrd/kmod"
	"github.com/kairos-buildkit/kairos/layout"
)

// Make returns the compressed initrd with this /init and these modules. trust is the content of
// [layout.InitrdTrust], which is left out where that is nil.
func Make(init []byte, s *Selection, trust []byte) ([]byte, error) {
	var a archive
	for _, dir := range []string{"dev", "lib", "lib/modules", "proc", "run", "sys", "sysroot"} {
		a.dir(dir)
	}
	a.charDevice("dev/console", 0o600, 5, 1)
	a.file("init", 0o755, init)
	a.file(kmod.IndexPath, 0o644, s.Index.Marshal())
	for _, m := range s.Index.Modules {
		content, err := s.content(m.Name)
		if err != nil {
			return nil, err
		}
		a.file(kmod.Path(m.Name), 0o644, content)
		if a.Len() > maxModules {
			return nil, fmt.Errorf("the initrd would have more than %d MiB", maxModules>>20)
		}
	}
	if trust != nil {
		a.dir(path.Dir(layout.InitrdTrust))
		a.file(layout.InitrdTrust, 0o644, trust)
	}
	cpio := a.finish()

	// One goroutine: the output must not depend on the machine.
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1),
		// The kernel's decompressor has to hold a window in memory.
		zstd.WithWindowSize(8<<20))
	if err != nil {
		return nil, fmt.Errorf("compress initrd: %w", err)
	}
	defer e.Close()
	return e.EncodeAll(cpio, make([]byte, 0, len(cpio)/3)), nil
}
