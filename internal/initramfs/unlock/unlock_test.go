package unlock

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/disk/luks"
	"github.com/kairos-buildkit/kairos/internal/initramfs/console"
	"github.com/kairos-buildkit/kairos/layout"
)

// bench is a machine whose partitions are files, and whose console is a pipe.
type bench struct {
	Machine
	boot   layout.Boot
	keys   map[string][]byte // volume keys, by the partition's name
	opened map[string][]byte // by the name of the device mapper
	typed  string            // all that is typed on the console
	shown  *os.File
}

// newBench makes encrypted partitions, each with a recovery key and a passphrase of its own.
func newBench(t *testing.T, names ...string) (b *bench, recovery map[string]string) {
	t.Helper()
	dir := t.TempDir()
	b = &bench{keys: map[string][]byte{}, opened: map[string][]byte{}}
	b.boot = layout.Boot{Role: layout.RoleSystem, Devices: map[string]string{}}
	recovery = map[string]string{}
	for _, name := range layout.Encryptable() {
		path := filepath.Join(dir, name)
		b.boot.Devices[name] = path
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		f, err := os.OpenFile(b.boot.Devices[name], os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		h, key, err := luks.New(layout.LabelOf(name), 512)
		if err != nil {
			t.Fatal(err)
		}
		b.keys[name], recovery[name] = key, luks.NewRecoveryKey()
		if err := errors.Join(
			h.Add(f, key, []byte(recovery[name]), luks.Random, map[string]any{"type": layout.TokenRecovery}),
			h.Add(f, key, []byte("password of "+name), luks.Random, nil),
			h.Add(f, key, []byte("machine's"), luks.Random, map[string]any{"type": "test"}),
		); err != nil {
			t.Fatal(err)
		}
	}
	b.shown, _ = os.Create(filepath.Join(dir, "console"))
	t.Cleanup(func() { b.shown.Close() })
	b.Machine = Machine{
		Boot: &b.boot, Log: &console.Log{}, Load: func(...string) error { return nil },
		Hold: func() func() { return func() {} },
		mapVolume: func(name string, device *os.File, h *luks.Header, key []byte) (string, error) {
			b.opened[name] = bytes.Clone(key)
			return "/dev/" + name, nil
		},
		consoles: func() *consoles {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				io.WriteString(w, b.typed)
				w.Close()
			}()
			return newConsoles(r, b.shown)
		},
	}
	return b, recovery
}

// expect checks what has opened which partition, "" for nothing.
func (b *bench) expect(t *testing.T, want map[string]string) {
	t.Helper()
	if len(b.boot.Encrypted) != len(want) {
		t.Errorf("%+v, want %v", b.boot.Encrypted, want)
	}
	for name, by := range want {
		e := b.boot.Encrypted[name]
		key := b.opened[layout.MapperName(name)]
		if e.UnlockedBy != by || !strings.HasSuffix(e.Device, "/"+name) ||
			(by != "") != bytes.Equal(key, b.keys[name]) {
			t.Errorf("%s: %+v, key %x, want %q", name, e, key, by)
		}
		device := e.Device
		if by != "" {
			device = "/dev/" + layout.MapperName(name)
		}
		if b.boot.Devices[name] != device {
			t.Errorf("%s is %s", name, b.boot.Devices[name])
		}
		if said := strings.Contains(strings.Join(b.boot.Problems, "\n"), layout.LabelOf(name)+" is encrypted"); said ==
			(by != "") {
			t.Errorf("%s: problems %q", name, b.boot.Problems)
		}
	}
}

func TestNothingIsEncrypted(t *testing.T) {
	b, _ := newBench(t)
	b.consoles = func() *consoles { t.Error("it asks"); return newConsoles() }
	b.unlock()
	b.expect(t, nil)
}

// Each key opens what it opens, and the question comes again for the rest: three times for wrong keys.
func TestTyped(t *testing.T) {
	nothing := map[string]string{"oem": "", "persistent": ""}
	const recovery, passphrase = layout.UnlockedByRecovery, layout.UnlockedByPassphrase
	for name, c := range map[string]struct {
		typed func(map[string]string) string
		want  map[string]string
	}{
		"recovery keys": {
			func(r map[string]string) string {
				return strings.ToUpper(r["persistent"]) + "\r" + strings.ReplaceAll(r["oem"], "-", "") + "\n"
			},
			map[string]string{"oem": recovery, "persistent": recovery},
		},
		"passphrases after wrong keys": {
			func(map[string]string) string { return "a\nb\npassword of oem\na\nb\npassword of persistent\n" },
			map[string]string{"oem": passphrase, "persistent": passphrase},
		},
		"one of two": {
			func(r map[string]string) string { return r["oem"] + "\n1\n2\n3\n" + r["persistent"] + "\n" },
			map[string]string{"oem": recovery, "persistent": ""},
		},
		"wrong keys":           {func(map[string]string) string { return "1\n\n3\n" }, nothing},
		"the machine's secret": {func(map[string]string) string { return "machine's\n" }, nothing},
		"nobody":               {func(map[string]string) string { return "" }, nothing},
	} {
		t.Run(name, func(t *testing.T) {
			b, r := newBench(t, "oem", "persistent")
			b.typed = c.typed(r)
			b.unlock()
			b.expect(t, c.want)
		})
	}
}

// What a token of the machine's own opens asks nobody; one that fails is said, and a person is asked.
func TestUnsealed(t *testing.T) {
	b, _ := newBench(t, "persistent")
	b.Unsealers = map[string]Unsealer{"test": func(token luks.Token) ([]byte, error) {
		if token.Type != "test" || len(token.Keyslots) != 1 {
			return nil, fmt.Errorf("%+v", token)
		}
		return []byte("machine's"), nil
	}}
	b.consoles = func() *consoles { t.Error("it asks"); return newConsoles() }
	b.unlock()
	b.expect(t, map[string]string{"persistent": "test"})

	b, r := newBench(t, "persistent")
	cleared := func(luks.Token) ([]byte, error) { return nil, errors.New("was cleared") }
	b.Unsealers = map[string]Unsealer{"test": cleared}
	b.typed = r["persistent"] + "\n"
	b.unlock()
	b.expect(t, map[string]string{"persistent": layout.UnlockedByRecovery})
	if all := strings.Join(b.boot.Problems, "\n"); !strings.Contains(all, "was cleared") {
		t.Error(all)
	}
}
