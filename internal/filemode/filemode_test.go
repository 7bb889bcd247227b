package filemode

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Each of the modes survives the way there and back, and is what the kernel makes of it.
func TestRoundTrip(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for bits := range uint32(0o10000) {
		m := FromUnix(bits)
		if got := ToUnix(m | fs.ModeDir); got != bits {
			t.Fatalf("%o is %v and then %o", bits, m, got)
		}
		if got := FromUnix(bits | 0o040000); got != m {
			t.Fatalf("%o with a type: %v", bits, got)
		}
		if bits&0o777 != 0o640 {
			continue
		}
		if err := os.Chmod(name, m); err != nil {
			t.Fatal(err)
		}
		var st syscall.Stat_t
		if err := syscall.Stat(name, &st); err != nil || uint32(st.Mode)&0o7777 != bits {
			t.Errorf("%v: the kernel has %o, %v; want %o", m, st.Mode, err, bits)
		}
	}
}
