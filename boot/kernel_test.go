package boot

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"maps"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"

	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/layout"
)

// deleteBelow removes a folder.
func deleteBelow(m fstest.MapFS, dir string) {
	maps.DeleteFunc(
		m,
		func(name string, _ *fstest.MapFile) bool { return name == dir || strings.HasPrefix(name, dir+"/") },
	)
}

// arm64Image is an Image as arm64 has it.
func arm64Image(version string) []byte {
	b := boottest.Program("")
	le := binary.LittleEndian
	copy(b[56:], "ARM\x64")
	le.PutUint32(b[0x3c:], 0x40)
	le.PutUint16(b[0x44:], 0xaa64)
	return append(b, "Linux version %s\x00Linux version "+version+" (root@build) #1 SMP\n\x00"...)
}

func zboot(compression string, packed []byte) []byte {
	b := arm64Image("")[:0x600]
	copy(b[2:], "\x00\x00zimg")
	binary.LittleEndian.PutUint32(b[8:], uint32(len(b)))
	binary.LittleEndian.PutUint32(b[12:], uint32(len(packed)))
	copy(b[24:56], compression+"\x00")
	return append(b, packed...)
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	z.Close()
	return out.Bytes()
}

func zstded(b []byte) []byte {
	e, _ := zstd.NewWriter(nil)
	return e.EncodeAll(b, nil)
}

func TestVersionIsInTheFile(t *testing.T) {
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"bzImage":          {boottest.Kernel("6.12.48+deb13-amd64"), "6.12.48+deb13-amd64"},
		"Image":            {arm64Image("6.17.1-300.fc43.aarch64"), "6.17.1-300.fc43.aarch64"},
		"Image, gzip":      {gzipped(arm64Image("6.1.0-9-arm64")), "6.1.0-9-arm64"},
		"gzip in gzip":     {gzipped(gzipped(arm64Image("6.1"))), ""},
		"zboot, gzip":      {zboot("gzip", gzipped(arm64Image("6.2"))), "6.2"},
		"zboot, zstd":      {zboot("zstd", zstded(arm64Image("6.3"))), "6.3"},
		"zboot, other":     {zboot("lzma", arm64Image("6.4")), ""},
		"zboot, truncated": {zboot("gzip", gzipped(arm64Image("6.5")))[:0x610], ""},
		"a program":        {boottest.Program("x"), ""},
		"a path":           {boottest.Kernel("6.1/../../x"), ""},
		"no version":       {boottest.Kernel("unknown"), ""},
		"nothing":          {nil, ""},
	} {
		if got := versionIn(c.file); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// The names of kernels are many, and some lie.
func TestKernelIsWhatItsFileSays(t *testing.T) {
	kernel := func(m fstest.MapFS, name, version string) { m[name] = file(string(boottest.Kernel(version))) }
	modules := func(m fstest.MapFS, version string) {
		boottest.AddKernel(m, version)
		delete(m, "boot/vmlinuz-"+version)
	}
	for name, c := range map[string]struct {
		change        func(fstest.MapFS)
		label         string
		version, path string
	}{
		"Arch": {change: func(m fstest.MapFS) {
			modules(m, "6.17.1-arch1-1")
			kernel(m, "boot/vmlinuz-linux", "6.17.1-arch1-1")
			kernel(m, "boot/vmlinuz-linux-lts", "6.12.1-1-lts") // whose package was removed, but not this
		}, version: "6.17.1-arch1-1", path: "boot/vmlinuz-linux"},
		"an old one beside it": {change: func(m fstest.MapFS) {
			boottest.AddKernel(m, "6.12.9")
			kernel(m, "boot/vmlinuz-6.12.9.old", "6.12.9")
			kernel(m, "boot/vmlinuz.old", "6.1.1")
		}, version: "6.12.9", path: "boot/vmlinuz-6.12.9"},
		"a name that lies": {change: func(m fstest.MapFS) {
			modules(m, "6.12.9")
			kernel(m, "boot/vmlinuz-7.0", "6.12.9")
		}, version: "6.12.9", path: "boot/vmlinuz-7.0"},
		"a plain file": {change: func(m fstest.MapFS) {
			modules(m, "6.12.9")
			kernel(m, "boot/vmlinuz", "6.12.9")
		}, version: "6.12.9", path: "boot/vmlinuz"},
		"kernel-<version>": {change: func(m fstest.MapFS) {
			modules(m, "6.12.9-gentoo")
			kernel(m, "boot/kernel-6.12.9-gentoo", "6.12.9-gentoo")
		}, version: "6.12.9-gentoo", path: "boot/kernel-6.12.9-gentoo"},
		"bzImage": {change: func(m fstest.MapFS) {
			modules(m, "6.12.9")
			kernel(m, "boot/bzImage", "6.12.9")
		}, version: "6.12.9", path: "boot/bzImage"},
		"any name": {change: func(m fstest.MapFS) {
			modules(m, "6.12.9")
			kernel(m, "boot/mine", "6.12.9")
			m["boot/initrd.img-6.12.9"] = file("\x1f\x8b not a kernel")
			m["boot/System.map"] = file("ffff T x")
			m["boot/memtest"] = file(string(boottest.Kernel("none")))
		}, version: "6.12.9", path: "boot/mine"},
		"Alpine's flavors": {change: func(m fstest.MapFS) {
			modules(m, "6.12.31-0-lts")
			modules(m, "6.12.32-0-virt")
			kernel(m, "boot/vmlinuz-lts", "6.12.31-0-lts")
			kernel(m, "boot/vmlinuz-virt", "6.12.32-0-virt")
		}, version: "6.12.32-0-virt", path: "boot/vmlinuz-virt"},
		"arm64": {change: func(m fstest.MapFS) {
			modules(m, "6.12.9-arm64")
			m["boot/Image"] = file(string(arm64Image("6.12.9-arm64")))
		}, version: "6.12.9-arm64", path: "boot/Image"},
		"newest with modules": {change: func(m fstest.MapFS) {
			boottest.AddKernel(m, "6.12.9")
			kernel(m, "boot/vmlinuz-7.0", "7.0")
			m["usr/lib/modules/7.0/updates/dkms/left.ko"] = file("\x7fELF")
		}, version: "6.12.9", path: "boot/vmlinuz-6.12.9"},
		"link in the root": {change: func(m fstest.MapFS) {
			boottest.AddKernel(m, "6.12.9")
			boottest.AddKernel(m, "6.1.1")
			m["vmlinuz"] = boottest.Link("boot/vmlinuz-6.1.1")
		}, version: "6.1.1", path: "boot/vmlinuz-6.1.1"},
		"label with a version": {label: "6.1.1", change: func(m fstest.MapFS) {
			boottest.AddKernel(m, "6.12.9")
			boottest.AddKernel(m, "6.1.1")
			m["boot/vmlinuz"] = boottest.Link("vmlinuz-6.12.9")
		}, version: "6.1.1", path: "boot/vmlinuz-6.1.1"},
		"label with a pattern": {label: "*-rt-*", change: func(m fstest.MapFS) {
			boottest.AddKernel(m, "6.12.9-amd64")
			boottest.AddKernel(m, "6.12.8-rt-amd64")
		}, version: "6.12.8-rt-amd64", path: "boot/vmlinuz-6.12.8-rt-amd64"},
		"label with a path": {label: "/boot/vmlinuz-6.1.1", change: func(m fstest.MapFS) {
			boottest.AddKernel(m, "6.12.9")
			boottest.AddKernel(m, "6.1.1")
		}, version: "6.1.1", path: "boot/vmlinuz-6.1.1"},
	} {
		m := boottest.Tree("1.0")
		delete(m, "boot/vmlinuz-1.0")
		c.change(m)
		got, err := FindKernel(m, Options{Kernel: c.label})
		if err != nil || got.Version != c.version || got.Path != c.path ||
			got.Modules != "usr/lib/modules/"+c.version {
			t.Errorf("%s: %s %s %s, %v", name, got.Version, got.Path, got.Modules, err)
		}
	}
	m := boottest.Tree("1.0")
	if _, err := FindKernel(m, Options{Kernel: "2.*"}); err == nil ||
		!strings.Contains(err.Error(), "has no such kernel, but 1.0") {
		t.Error(err)
	}
}

// A kernel that had to be unpacked is in the image twice; the unpacked one is no other kernel, and
// boot files made of one at its own place still fit.
func TestUnpackedKernelIsNotFoundAgain(t *testing.T) {
	for _, path := range []string{"boot/vmlinuz-6.1", layout.ImageKernel} {
		m := boottest.Tree("6.1")
		delete(m, "boot/vmlinuz-6.1")
		m[path] = file(string(gzipped(boottest.Kernel("6.1"))))
		f, err := Make(m, Options{})
		if err != nil {
			t.Fatal(err)
		}
		m[layout.ImageKernel], m[layout.ImageInitrd], m[layout.ImageUKI] = file(
			string(f.Kernel),
		), file(
			string(f.Initrd),
		), file(
			string(f.UKI),
		)
		m[layout.ImageBootManifest] = file(string(f.Manifest.Marshal()))
		if fits, why, err := Check(m, Options{}); !fits {
			t.Errorf("%s: %s %v", path, why, err)
		}
		boottest.AddKernel(m, "6.2")
		if k, err := FindKernel(m, Options{}); err != nil || k.Version != "6.2" {
			t.Errorf("%s: %+v, %v", path, k, err)
		}
	}
}

// A kernel that claims to be larger than any is not read.
func TestKernelIsBounded(t *testing.T) {
	m := boottest.Tree("6.1")
	m["boot/vmlinuz-6.1"] = &fstest.MapFile{Data: make([]byte, maxKernel+1), Mode: 0o644}
	copy(m["boot/vmlinuz-6.1"].Data, boottest.Kernel("6.1"))
	if _, err := Make(m, Options{}); err == nil || !strings.Contains(err.Error(), "more than 256 MiB") {
		t.Errorf("%v", err)
	}
}

// Real-time kernels do not call the firmware by default, and a node has to.
func TestRealTimeKernelsCallTheFirmware(t *testing.T) {
	for config, want := range map[string]bool{
		"CONFIG_PREEMPT_RT=y":            true,
		"CONFIG_EFI_DISABLE_RUNTIME=y":   true,
		"# CONFIG_PREEMPT_RT is not set": false,
	} {
		m := boottest.Tree("6.1")
		m["boot/config-6.1"] = file(config + "\n")
		f, err := Make(m, Options{Cmdline: "quiet"})
		if err != nil || strings.Contains(f.Cmdline, " efi=runtime quiet") != want {
			t.Errorf("%s: %+v, %v", config, f, err)
		}
	}
}

// Words that not every boot loader hands on are refused where the image is built.
func TestWordsThatDoNotArriveAreRefused(t *testing.T) {
	for words, ok := range map[string]bool{
		`a=$b#c "d=e"`:              true,
		`dyndbg="file x +p"`:        false,
		`a='b'`:                     false,
		strings.Repeat("abc ", 500): false,
	} {
		if _, err := Make(boottest.Tree("6.1"), Options{Cmdline: words}); (err == nil) != ok {
			t.Errorf("%.40q: %v", words, err)
		}
	}
}

func FuzzKernel(f *testing.F) {
	for _, b := range [][]byte{
		boottest.Kernel("6.1"), arm64Image("6.2"), zboot("gzip", gzipped(arm64Image("6.3"))),
		zboot("zstd", zstded(arm64Image("6.4"))), gzipped(boottest.Kernel("6.5")),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v := versionIn(b)
		if strings.ContainsAny(v, "/ \n\x00") || v == ".." || len(v) > 64 {
			t.Errorf("version %q", v)
		}
		m := boottest.Tree("6.1")
		m["boot/vmlinuz"] = file(string(b))
		if k, err := FindKernel(m, Options{}); err == nil && k.Modules == "" {
			t.Errorf("%+v", k)
		}
	})
}

func FuzzManifest(f *testing.F) {
	m := boottest.Tree("6.1")
	made, err := Make(m, Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(made.Manifest.Marshal())
	f.Add([]byte(`{"outputs":{"../x":"y"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil {
			return
		}
		again, err := ParseManifest(m.Marshal())
		if err != nil || !bytes.Equal(again.Marshal(), m.Marshal()) {
			t.Errorf("%q: %v", b, err)
		}
	})
}
