package uki

import (
	"bytes"
	"testing"
)

// A section is read without the file, and what the headers say about sizes is bounded.
func TestReadSection(t *testing.T) {
	file, err := Append(stub(3),
		[]Section{{Name: Cmdline, Data: []byte("console=ttyS0")}, {Name: Linux, Data: []byte("kernel")}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := ReadSection(bytes.NewReader(file), Cmdline, 100)
	if err != nil || string(b) != "console=ttyS0" {
		t.Errorf("%q, %v", b, err)
	}
	for name, f := range map[string]func() ([]byte, error){
		"missing":   func() ([]byte, error) { return ReadSection(bytes.NewReader(file), Initrd, 100) },
		"too large": func() ([]byte, error) { return ReadSection(bytes.NewReader(file), Cmdline, 12) },
		"cut":       func() ([]byte, error) { return ReadSection(bytes.NewReader(file[:700]), Linux, 100) },
		"no PE":     func() ([]byte, error) { return ReadSection(bytes.NewReader(make([]byte, 100)), Linux, 100) },
		"empty":     func() ([]byte, error) { return ReadSection(bytes.NewReader(nil), Linux, 100) },
	} {
		if b, err := f(); err == nil {
			t.Errorf("%s: %q", name, b)
		}
	}
}
