package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"kairos": func() { os.Exit(program(os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})) },
	})
}

// What a person types and sees, as far as nothing is built.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}
