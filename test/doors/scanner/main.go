// Command scanner stands in for an SBOM generator: it follows BuildKit's protocol for those
// (docs/attestations/sbom-protocol.md) and finds one package.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

const statement = `{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document",
"predicate":{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","name":"demo",
"packages":[{"SPDXID":"SPDXRef-1","name":%q}]}}`

func main() {
	// What it saw of the image is the name of the package.
	name := "nothing"
	if _, err := os.Stat(filepath.Join(os.Getenv("BUILDKIT_SCAN_SOURCE"), "usr/lib/demo/file")); err == nil {
		name = "demo"
	}
	file := filepath.Join(os.Getenv("BUILDKIT_SCAN_DESTINATION"), "demo.spdx.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, statement, name), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
