package uki_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki"
)

// The name in the boot menu is written into a UKI, but for one that has signatures for its sections: a TPM would
// measure the name.
func TestMeasuredFilesStay(t *testing.T) {
	name := layout.EntryOSRelease("Debian", "active")
	for _, measured := range []bool{false, true} {
		sections := []uki.Section{{Name: uki.OSRel, Data: layout.EntryOSRelease("", "")}}
		if measured {
			sections = append(sections, uki.Section{Name: uki.PCRSignatures, Data: []byte("{}")})
		}
		file, err := uki.Append(boottest.Program("stub"), sections)
		if err != nil {
			t.Fatal(err)
		}
		out, err := uki.Replace(file, uki.OSRel, name)
		if measured != (err != nil) || err != nil && !strings.Contains(err.Error(), "a TPM measures") {
			t.Errorf("measured: %v: %v", measured, err)
		}
		if !measured && !bytes.Contains(out, name) {
			t.Error("the name is not there")
		}
		if !bytes.Equal(uki.Untitled(file), file) {
			t.Error("a file without a title is another one without it")
		}
	}
}
