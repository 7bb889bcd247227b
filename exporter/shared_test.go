package exporter

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"testing/fstest"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/layout"
)

// The initrd is in the boot layer twice, as a file and in the UKI, and once in its blob but for
// the last chunk: package boot lays the UKI out in the chunks of package erofs.
func TestInitrdIsOnceInTheBootLayer(t *testing.T) {
	tree := boottest.Tree(kernel)
	program := make([]byte, 1<<20) // nothing to compress
	for i, r := 0, rand.New(rand.NewPCG(1, 2)); i < len(program); i++ {
		program[i] = byte(r.Uint32())
	}
	tree[layout.ImageInit] = &fstest.MapFile{Data: program, Mode: 0o755}
	files := bootFiles(t, tree, boot.Options{})
	both := blobSize(t, files)
	delete(files, layout.ImageInitrd)
	if more := both - blobSize(t, files); more > 200<<10 {
		t.Errorf("the initrd of %d KiB takes %d KiB beside the UKI that has it", len(program)>>10, more>>10)
	}
}

// blobSize is the size of a tree's image with the compression that nearly all kernels get.
func blobSize(t *testing.T, tree fstest.MapFS) int64 {
	t.Helper()
	tar := bytes.NewReader(boottest.Tar(t, boottest.WithFolders(tree)))
	size, err := erofs.Convert(t.Context(), discard{}, tar, erofs.Options{Compression: erofs.Zstd})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
