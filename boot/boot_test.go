package boot

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/kairos-buildkit/kairos/boot/boottest"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki"
)

func file(data string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(data), Mode: 0o644} }

// install writes boot files into a tree as the frontend does.
func install(t *testing.T, tree fstest.MapFS, o Options) *Files {
	t.Helper()
	f, err := Make(tree, o)
	if err != nil {
		t.Fatal(err)
	}
	tree[layout.ImageKernel] = boottest.Link(filepath.Base(f.KernelPath))
	tree[layout.ImageInitrd] = file(string(f.Initrd))
	tree[layout.ImageUKI] = file(string(f.UKI))
	tree[layout.ImageBootManifest] = file(string(f.Manifest.Marshal()))
	return f
}

func TestUKIHoldsKernelAndCommandLine(t *testing.T) {
	tree := boottest.Tree("6.12.1-amd64")
	f := install(t, tree, Options{Cmdline: " quiet  console=ttyS1"})
	sections, err := uki.Sections(f.UKI)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	menu := ""
	for _, s := range sections {
		if s.Name == uki.Profile {
			menu += " |"
		} else if menu != "" {
			menu += " " + s.Name
		}
		if menu == "" {
			got[s.Name] = string(s.Data)
		}
		want := got[".cmdline"] + " " + layout.CmdlineReset
		if strings.HasSuffix(menu, "| .cmdline | .osrel .cmdline") && string(s.Data) != want {
			t.Errorf("the reset profile's command line is %q, want %q", s.Data, want)
		}
	}
	// The base, debug, and one that systemd-boot does not list by itself for each other choice.
	if want := " | | .cmdline" + strings.Repeat(" | .osrel .cmdline", 5); menu != want {
		t.Errorf("profiles %q, want %q", menu, want)
	}
	for name, want := range map[string]string{
		".cmdline": "console=tty0 console=ttyS0,115200 panic=10 systemd.condition-needs-update=no quiet console=ttyS1",
		".uname":   "6.12.1-amd64",
		".linux":   string(boottest.Kernel("6.12.1-amd64")),
		".initrd":  string(f.Initrd),
	} {
		if got[name] != want {
			t.Errorf("%s = %.80q, want %.80q", name, got[name], want)
		}
	}
	// systemd-boot must order entries by file name, which it does where there is no version.
	if strings.Contains(got[".osrel"], "VERSION") {
		t.Errorf(".osrel has a version: %q", got[".osrel"])
	}
	if f.KernelPath != "boot/vmlinuz-6.12.1-amd64" || !f.KernelIsFile {
		t.Errorf("kernel from %s", f.KernelPath)
	}
}

func TestBootFilesDependOnTheKernelOnly(t *testing.T) {
	a, b := boottest.Tree("6.12.1"), boottest.Tree("6.12.1")
	b["usr/bin/more"] = file("something else")
	b["etc/os-release"] = file("ID=other")
	b["usr/lib/modules/6.12.1/kernel/net/wireguard.ko"] = file("\x7fELF a module that the initrd does not take")
	x, y := install(t, a, Options{}), install(t, b, Options{})
	if !bytes.Equal(x.UKI, y.UKI) || !bytes.Equal(x.Manifest.Marshal(), y.Manifest.Marshal()) {
		t.Error("a change elsewhere in the image changed the boot files")
	}
}

func TestCheckSeesWhatNoLongerFits(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(fstest.MapFS)
		options Options
		why     string
	}{
		"unchanged":    {change: func(fstest.MapFS) {}},
		"another file": {change: func(m fstest.MapFS) { m["usr/bin/x"] = file("x") }},
		"newer kernel": {change: func(m fstest.MapFS) { boottest.AddKernel(m, "6.12.10") },
			why: "the image's kernel is 6.12.10, the boot files have 6.12.9"},
		"older kernel too": {change: func(m fstest.MapFS) { boottest.AddKernel(m, "6.1.20") }},
		"kernel rebuilt": {change: func(m fstest.MapFS) {
			m["boot/vmlinuz-6.12.9"] = file(string(boottest.Program("patched")))
		}, why: "was replaced"},
		"module rebuilt": {change: func(m fstest.MapFS) {
			m["usr/lib/modules/6.12.9/kernel/fs/erofs/erofs.ko"] = file("\x7fELF patched")
		}, why: "modules of the kernel 6.12.9"},
		"command line": {change: func(fstest.MapFS) {}, options: Options{Cmdline: "quiet"}, why: "command line"},
		"module wanted": {change: func(fstest.MapFS) {}, options: Options{Modules: []string{"wireguard"}},
			why: "modules of the kernel"},
		"new /init": {change: func(m fstest.MapFS) { m[layout.ImageInit] = file("\x7fELF newer") },
			why: "/init"},
		"initrd lost": {change: func(m fstest.MapFS) { delete(m, layout.ImageInitrd) },
			why: "/boot/initrd was removed"},
		"UKI changed": {change: func(m fstest.MapFS) { m[layout.ImageUKI] = file("x") },
			why: "/boot/kairos.efi was changed"},
		"no manifest": {change: func(m fstest.MapFS) { delete(m, layout.ImageBootManifest) },
			why: "manifest.json"},
		"broken manifest": {change: func(m fstest.MapFS) { m[layout.ImageBootManifest] = file("{") },
			why: "manifest.json"},
		"chosen kernel": {change: func(m fstest.MapFS) {
			boottest.AddKernel(m, "6.1.20")
			m[layout.ImageKernel] = boottest.Link("vmlinuz-6.1.20")
		}, why: "the image's kernel is 6.1.20"},
	} {
		tree := boottest.Tree("6.12.9")
		install(t, tree, Options{})
		c.change(tree)
		fits, why, err := Check(tree, c.options)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if fits != (c.why == "") || !strings.Contains(why, c.why) {
			t.Errorf("%s: fits %v, %q; want %q", name, fits, why, c.why)
		}
		if fits {
			continue
		}
		install(t, tree, c.options)
		if fits, why, err := Check(tree, c.options); !fits {
			t.Errorf("%s: regenerated, and still no fit: %q %v", name, why, err)
		}
	}
}

func TestImagesThatCannotBoot(t *testing.T) {
	const v = "6.12.9"
	for name, c := range map[string]struct {
		change func(fstest.MapFS)
		want   string
	}{
		"no kernel": {func(m fstest.MapFS) { delete(m, "boot/vmlinuz-"+v) },
			"the image has no kernel in /boot or /usr/lib/modules: install one, such as Debian's linux-image-amd64"},
		"dangling kernel": {func(m fstest.MapFS) { m["boot/vmlinuz-"+v] = boottest.Link("gone") },
			"the image has no kernel"},
		"no modules": {func(m fstest.MapFS) {
			delete(m, "boot/vmlinuz-"+v)
			m["boot/vmlinuz-7.0"] = file(string(boottest.Program("k")))
		}, "the kernel boot/vmlinuz-7.0 but not its modules in /usr/lib/modules/7.0: install the package"},
		"no erofs": {func(m fstest.MapFS) {
			deleteBelow(m, "usr/lib/modules/"+v+"/kernel")
			m["usr/lib/modules/"+v+"/modules.dep"] = file("")
		}, "the kernel has no EROFS (CONFIG_EROFS_FS), no overlayfs"},
		"no depmod": {func(m fstest.MapFS) { m["usr/lib/modules/"+v+"/modules.dep"] = file("") }, "run depmod"},
		"no init": {func(m fstest.MapFS) { delete(m, "usr/lib/systemd/systemd") },
			"the image has no init (/sbin/init or /usr/lib/systemd/systemd): install one"},
		"no /proc": {func(m fstest.MapFS) { delete(m, "proc") }, "RUN mkdir /proc"},
		"no stub":  {func(m fstest.MapFS) { delete(m, layout.ImageStub) }, "the image has no boot layer"},
		"not EFI":  {func(m fstest.MapFS) { m["boot/vmlinuz-"+v] = file("\x7fELF vmlinux") }, "CONFIG_EFI_STUB"},
		"other platform": {func(m fstest.MapFS) {
			b := boottest.Program("arm")
			b[0x44], b[0x45] = 0x64, 0xaa
			m["boot/vmlinuz-"+v] = file(string(b))
		}, "is for arm64, the boot layer for amd64"},
	} {
		tree := boottest.Tree(v)
		c.change(tree)
		_, err := Make(tree, Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if _, _, checkErr := Check(tree, Options{}); checkErr == nil || checkErr.Error() != err.Error() {
			t.Errorf("%s: Check says %v, Make %v", name, checkErr, err)
		}
	}
}

func TestKernelsOfManyDistributions(t *testing.T) {
	k := string(boottest.Program("k"))
	base := func() fstest.MapFS {
		m := boottest.Tree("1.0")
		delete(m, "boot/vmlinuz-1.0")
		return m
	}
	for name, c := range map[string]struct {
		change                 func(fstest.MapFS)
		version, path, modules string
	}{
		"newest of several": {func(m fstest.MapFS) {
			boottest.AddKernel(m, "6.12.9+deb13-amd64")
			boottest.AddKernel(m, "6.12.48+deb13-amd64")
		}, "6.12.48+deb13-amd64", "boot/vmlinuz-6.12.48+deb13-amd64", "usr/lib/modules/6.12.48+deb13-amd64"},
		"release after its candidates": {func(m fstest.MapFS) {
			boottest.AddKernel(m, "6.12-rc7")
			boottest.AddKernel(m, "6.12")
		}, "6.12", "boot/vmlinuz-6.12", "usr/lib/modules/6.12"},
		"Fedora": {func(m fstest.MapFS) {
			boottest.AddKernel(m, "6.17.1-300.fc43.x86_64")
			delete(m, "boot/vmlinuz-6.17.1-300.fc43.x86_64")
			m["usr/lib/modules/6.17.1-300.fc43.x86_64/vmlinuz"] = file(k)
			m["boot/vmlinuz-0-rescue-0123456789abcdef"] = file(k)
		}, "6.17.1-300.fc43.x86_64", "usr/lib/modules/6.17.1-300.fc43.x86_64/vmlinuz",
			"usr/lib/modules/6.17.1-300.fc43.x86_64"},
		"Alpine": {func(m fstest.MapFS) {
			boottest.AddKernel(m, "6.12.31-0-lts")
			delete(m, "boot/vmlinuz-6.12.31-0-lts")
			m["boot/vmlinuz-lts"] = file(k)
		}, "6.12.31-0-lts", "boot/vmlinuz-lts", "usr/lib/modules/6.12.31-0-lts"},
		"absolute links": {func(m fstest.MapFS) {
			boottest.AddKernel(m, "5.0")
			m["usr/lib/kernel"] = m["boot/vmlinuz-5.0"]
			m["boot/vmlinuz-5.0"] = boottest.Link("/lib/kernel")
		}, "5.0", "usr/lib/kernel", "usr/lib/modules/5.0"},
		"chosen by a link": {func(m fstest.MapFS) {
			boottest.AddKernel(m, "6.12.9")
			boottest.AddKernel(m, "6.1.1")
			m["boot/vmlinuz"] = boottest.Link("/boot/vmlinuz-6.1.1")
		}, "6.1.1", "boot/vmlinuz-6.1.1", "usr/lib/modules/6.1.1"},
		"links that leave the image": {func(m fstest.MapFS) {
			boottest.AddKernel(m, "6.1.1")
			m["boot/vmlinuz"] = boottest.Link("../../../boot/vmlinuz-6.1.1")
		}, "6.1.1", "boot/vmlinuz-6.1.1", "usr/lib/modules/6.1.1"},
	} {
		m := base()
		c.change(m)
		got, err := FindKernel(m, Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.Version != c.version || got.Path != c.path || got.Modules != c.modules {
			t.Errorf("%s: %s %s %s", name, got.Version, got.Path, got.Modules)
		}
	}
}

// The links of a real folder are the image's, not the machine's.
func TestLinksInARealFolder(t *testing.T) {
	dir := t.TempDir()
	tree := boottest.Tree("6.1")
	if err := os.CopyFS(dir, tree); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"boot/loop": "loop", "boot/vmlinuz-9": "/vmlinuz-of-the-machine"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	k, err := FindKernel(os.DirFS(dir), Options{})
	if err != nil || k.Version != "6.1" {
		t.Errorf("%+v, %v", k, err)
	}
}

func TestCompressedKernel(t *testing.T) {
	tree := boottest.Tree("6.1")
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(boottest.Program("packed"))
	z.Close()
	tree["boot/vmlinuz-6.1"] = file(b.String())
	f, err := Make(tree, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.Kernel, boottest.Program("packed")) || f.KernelIsFile {
		t.Error("the kernel was not unpacked")
	}
}

func TestCompression(t *testing.T) {
	for want, c := range map[string]Config{
		"zstd": {"CONFIG_EROFS_FS_ZIP": "y", "CONFIG_EROFS_FS_ZIP_ZSTD": "y"},
		"lz4":  {"CONFIG_EROFS_FS_ZIP": "y"},
		"none": nil,
	} {
		if got := (Kernel{Config: c}).Compression(); got != want {
			t.Errorf("%v: %s, want %s", c, got, want)
		}
	}
}

func TestCompareVersions(t *testing.T) {
	ordered := []string{
		"5.10.9",
		"5.10.10",
		"6.1.0-9-amd64",
		"6.1.0-31-amd64",
		"6.12-rc1",
		"6.12-rc10",
		"6.12",
		"6.12.1~bpo",
		"6.12.1",
		"6.12.1-1",
		"6.12.48+deb13-amd64",
		"6.12.117+deb13-amd64",
	}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := CompareVersions(a, b); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("compare %s with %s: %d", a, b, got)
			}
		}
	}
}

func TestOptionsFromLabels(t *testing.T) {
	o := OptionsFrom(map[string]string{layout.ImageLabelCmdline: "quiet", layout.ImageLabelModules: "a, b\nc"})
	if o.Cmdline != "quiet" || strings.Join(o.Modules, "|") != "a|b|c" {
		t.Errorf("%+v", o)
	}
}
