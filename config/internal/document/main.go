// Command document writes the documentation of the schema to a file.
package main

import (
	"fmt"
	"os"

	"github.com/kairos-buildkit/kairos/config"
)

func main() {
	if err := os.WriteFile(os.Args[1], config.Markdown(), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "document:", err)
		os.Exit(1)
	}
}
