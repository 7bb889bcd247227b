package vmtest

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// Main runs a package's tests if it is root's process, which building images takes, and the files are
// there that its tests start from. prepare, which may be nil, comes before them.
func Main(m *testing.M, prepare func() error, files ...string) {
	err := need(files)
	if err == nil && prepare != nil {
		err = prepare()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "virtual machine tests:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func need(files []string) error {
	if os.Geteuid() != 0 {
		return errors.New("building images needs root")
	}
	for _, f := range files {
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("%w: run it by `make test-vm`", err)
		}
	}
	return nil
}
