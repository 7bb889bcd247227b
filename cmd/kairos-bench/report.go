package main

import (
	"fmt"
	"os"
	"strings"
)

// replace puts a table into the report, between its marks, and leaves the rest as it is.
func (b *bench) replace(name, table string) error {
	begin, end := fmt.Sprintf("<!-- %s: made by make bench -->\n", name), fmt.Sprintf("<!-- end of %s -->\n", name)
	text, err := os.ReadFile(b.out)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q", b.out, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return os.WriteFile(b.out, []byte(before+begin+"\n"+table+"\n"+end+after), 0o644)
}
