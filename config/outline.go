package config

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Outline lists the keys of a block that take effect, a line each, for the help of the command that the block is for.
func Outline(block string) string {
	k := root.find(block)
	if k == nil {
		return ""
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, key := range flatten(block, k.Keys) {
		if key.Status == Applies {
			fmt.Fprintf(t, "  %s\t%s\t%s\n", key.Name, valueName(key), plain(key.Doc))
		}
	}
	t.Flush() // into memory
	return b.String()
}

// plain is a documentation without its marks.
func plain(s string) string { return strings.TrimSuffix(strings.ReplaceAll(s, "`", ""), ".") }
