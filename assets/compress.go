//go:build ignore

// Command compress writes a file compressed by zstd at its best: go run compress.go IN OUT.
package main

import (
	"log"
	"os"

	"github.com/klauspost/compress/zstd"
)

func main() {
	b, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	// One goroutine: the output must not depend on the number of cores.
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(os.Args[2], e.EncodeAll(b, nil), 0o644); err != nil {
		log.Fatal(err)
	}
}
