package vmtest

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// Reuse has a run keep what it makes in its folder of work, and take what the run before has made: for work on the
// tests.
var Reuse = os.Getenv("KAIROS_TEST_REUSE") != ""

// Main runs a package's tests if it is root's process, which building images takes, and the files are
// there that its tests start from. The folder work is made before them, empty unless [Reuse], and removed when they
// have passed: it is some gigabytes. prepare, which may be nil, fills it.
func Main(m *testing.M, work string, prepare func() error, files ...string) {
	err := need(files)
	if err == nil && !Reuse {
		err = os.RemoveAll(work)
	}
	if err == nil {
		err = os.MkdirAll(work, 0o777)
	}
	if err == nil && prepare != nil {
		err = prepare()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "virtual machine tests:", err)
		os.Exit(1)
	}
	code := m.Run()
	if code == 0 && !Reuse {
		if err := os.RemoveAll(work); err != nil {
			fmt.Fprintln(os.Stderr, "virtual machine tests:", err)
		}
	}
	os.Exit(code)
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
