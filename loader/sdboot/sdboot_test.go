package sdboot

import (
	"bytes"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/assets"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/internal/efivars"
	"github.com/kairos-buildkit/kairos/internal/fattest"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/uki"
)

const idA, idB = "aaaaaaaaaaaa", "bbbbbbbbbbbb"

// program is a UKI without a kernel.
func program(t *testing.T) []byte {
	t.Helper()
	files, err := assets.FS("amd64")
	if err != nil {
		t.Fatal(err)
	}
	stub, err := fs.ReadFile(files, "stub.efi")
	if err != nil {
		t.Fatal(err)
	}
	b, err := uki.Append(stub, []uki.Section{
		{Name: uki.OSRel, Data: layout.EntryOSRelease("", "")}, {Name: uki.Linux, Data: []byte("kernel")},
		{Name: uki.Profile, Data: []byte("ID=main\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func machine(t *testing.T) (*loader.ESP, efivars.Dir) {
	t.Helper()
	vars := efivars.Dir(t.TempDir())
	if err := vars.Write("LoaderInfo", efivars.Loader, efivars.FromText("systemd-boot")); err != nil {
		t.Fatal(err)
	}
	content, err := loader.Content(loader.Programs{Arch: "amd64", SystemdBoot: []byte("loader")}, idA,
		loader.BootFiles{UKI: program(t), Name: "Debian GNU/Linux 13 (trixie) - v1.4"}, true)
	if err != nil {
		t.Fatal(err)
	}
	var files []filetree.File
	for _, f := range content {
		files = append(files, filetree.Bytes(f.Path, f.Data))
	}
	v := fattest.New(t, 16<<20, files...)
	t.Cleanup(v.Check)
	l := Loader{Variables: vars}
	return &loader.ESP{Volume: &loader.Volume{Dir: v.Dir, Names: v.Names()}, Decides: l, Copy: l}, vars
}

// titles are what the boot menu shows, by file.
func titles(t *testing.T, p *loader.ESP) map[string]string {
	t.Helper()
	all := map[string]string{}
	names, err := p.ReadDir(layout.UKIDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".efi") {
			continue
		}
		b, _, err := p.Section(layout.UKIDir+"/"+name, uki.OSRel)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = layout.ParseOSRelease(b)["PRETTY_NAME"]
	}
	return all
}

// The menu shows distribution, version, role and state; only the one sector of a UKI changes with them.
func TestTitles(t *testing.T) {
	p, _ := machine(t)
	const debian = "Debian GNU/Linux 13 (trixie) - v1.4 - "
	check := func(want map[string]string) {
		t.Helper()
		got := titles(t, p)
		for name, title := range want {
			if got[name] != title {
				t.Errorf("%s: %q, want %q", name, got[name], title)
			}
		}
	}
	check(map[string]string{
		layout.Blessed(1, idA).String(): debian + "active",
		layout.Entry{ID: idA}.String():  debian + "recovery",
	})
	new := loader.BootFiles{UKI: program(t), Name: "Debian GNU/Linux 13 (trixie) - v1.5"}
	if err := p.Activate(idB, new); err != nil {
		t.Fatal(err)
	}
	check(map[string]string{
		layout.Blessed(1, idA).String(): debian + "passive",
		layout.OnTrial(2, idB).String(): "Debian GNU/Linux 13 (trixie) - v1.5 - active, on trial",
	})
	if err := p.Bless(idB); err != nil {
		t.Fatal(err)
	}
	check(map[string]string{layout.Blessed(2, idB).String(): "Debian GNU/Linux 13 (trixie) - v1.5 - active"})
	b, err := p.ReadFile(layout.UKIDir + "/" + layout.Blessed(2, idB).String())
	if err != nil {
		t.Fatal(err)
	}
	plain, err := uki.Replace(b, uki.OSRel, layout.EntryOSRelease("", ""))
	if err != nil || !bytes.Equal(plain, program(t)) {
		t.Errorf("more than the title has changed: %v", err)
	}
	// One that has no room for a title is left alone.
	if err := p.Activate(idA, loader.BootFiles{UKI: []byte("not a PE file")}); err != nil {
		t.Error(err)
	}
}

func TestNext(t *testing.T) {
	p, vars := machine(t)
	if err := p.Activate(idB, loader.BootFiles{UKI: program(t)}); err != nil {
		t.Fatal(err)
	}
	state, err := p.State()
	if err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]string{
		"passive": "kairos-00000001-" + idA + "*.efi", "recovery": "kairos-00000000-" + idA + "*.efi",
		"reset": "kairos-reset*.conf", idA: "kairos-00000001-" + idA + "*.efi", "active": "", idB: "",
	} {
		c, err := state.Choose(what)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Next(c); err != nil {
			t.Fatal(err)
		}
		b, err := vars.Read(oneShot, efivars.Loader)
		if got := efivars.Text(b); got != want || (want == "") != errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	for _, what := range []string{"", "cccccccccccc", "recoveri"} {
		if c, err := state.Choose(what); err == nil {
			t.Errorf("%q: %+v", what, c)
		}
	}
	// The loader's own order comes to the reset after everything else.
	b, err := p.ReadFile(layout.ResetEntry)
	if err != nil || !strings.Contains(layout.ResetEntry, "+0-") ||
		!strings.Contains(string(b), "kairos-00000000-"+idA+".efi\noptions @2\n") {
		t.Errorf("%s: %q, %v", layout.ResetEntry, b, err)
	}
	c, _ := state.Choose("recovery")
	err = Loader{Variables: efivars.Dir(t.TempDir())}.Next(p.Volume, state, c)
	if !errors.Is(err, efivars.ErrUnreadable) {
		t.Errorf("without variables: %v", err)
	}
}
