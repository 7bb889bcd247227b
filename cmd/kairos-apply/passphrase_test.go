package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A passphrase is a file's first line, and neither one that is guessed nor one that no console takes.
func TestReadPassphrase(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pass")
	long := strings.Repeat("x", maxPassphrase)
	for text, want := range map[string]string{
		"battery horse":         "battery horse",
		"battery horse\nmore\n": "battery horse",
		" battery \r\n":         " battery ",
		long + "\n":             long,
		long + "x\n":            "",
		"short\n":               "",
		"":                      "",
		"\nbattery horse\n":     "",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readPassphrase(file)
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%.20q: %.20q, %v", text, got, err)
		}
	}
	if _, err := readPassphrase(file + ".none"); err == nil {
		t.Error("a file that is not there")
	}
}
