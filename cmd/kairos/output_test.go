package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseOutput(t *testing.T) {
	none := map[string]string{}
	for in, want := range map[string]output{
		"type=iso,dest=os.iso":        {"iso", "os.iso", none},
		`type=iso,"dest=a,b.iso"`:     {"iso", "a,b.iso", none},
		"rootfs":                      {"local", "rootfs", none},
		"-":                           {"tar", "-", none},
		"type=oci":                    {"oci", "-", none},
		"type=registry,name=x":        {"image", "", map[string]string{"push": "true", "name": "x"}},
		"type=oci,dest=x,tar=false":   {"oci", "x", map[string]string{"tar": "false"}},
		"type=image,annotation.a.b=c": {"image", "", map[string]string{"annotation.a.b": "c"}},
		"type=iso,dest=o,annotation-manifest-descriptor.a=c": {"iso", "o",
			map[string]string{"annotation-manifest-descriptor.a": "c"}},
	} {
		got, err := parseOutput(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if d := cmp.Diff(want, got, cmp.AllowUnexported(output{})); d != "" {
			t.Errorf("%s: %s", in, d)
		}
	}
}

func TestTagsNameAllOutputs(t *testing.T) {
	outs, err := (&buildOptions{
		outputs: []string{"type=oci,dest=a", "type=iso,dest=b"},
		tags:    []string{"x", "y"},
		push:    true,
	}).parseOutputs()
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range outs {
		if got := out.attrs["name"]; got != "x,y" {
			t.Errorf("type=%s: name=%q", out.typ, got)
		}
	}
	if last := outs[len(outs)-1]; len(outs) != 3 || last.typ != "image" || last.attrs["push"] != "true" {
		t.Errorf("--push: %+v", outs)
	}
}

func TestPendingFileAppearsWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	dest := filepath.Join(dir, "os.iso")
	for _, f := range []string{dest, dest + ".sha256"} {
		if err := os.WriteFile(f, []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	broken, err := createPending(dest)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = broken.Write([]byte("half"))
	_ = broken.Close() // the stream's end says nothing
	if err := broken.discard(); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(dest); string(b) != "old" {
		t.Errorf("after a failure: %q", b)
	}
	whole, err := createPending(dest)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"who", "le"} {
		if _, err := whole.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	if err := whole.commit(true); err != nil {
		t.Fatal(err)
	}
	if err := whole.discard(); err != nil {
		t.Errorf("discard after commit: %v", err)
	}
	if b, _ := os.ReadFile(dest); string(b) != "whole" {
		t.Errorf("content %q", b)
	}
	check := exec.Command("sha256sum", "-c", "os.iso.sha256")
	check.Dir = dir
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("sha256sum -c: %v\n%s", err, out)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	hidden, _ := filepath.Glob(filepath.Join(dir, ".*"))
	if len(names) != 2 || len(hidden) != 0 || err != nil {
		t.Errorf("left in the folder: %v %v", names, hidden)
	}
}

func TestWriteErrorNamesTheDestination(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := &pendingFile{w: full, dest: "os.iso"}
	_, _ = f.Write([]byte("x"))
	set := outputSet{files: []*pendingFile{nil, f}}
	if got := set.writeError(); got == nil ||
		!strings.HasPrefix(got.Error(), "write os.iso: no space left on device") {
		t.Errorf("error %v", got)
	}
}

// A disk is mostly zeros: what is written is what was given, and takes no room for the zeros.
func TestPendingFileIsSparse(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var want []byte
	for range 200 {
		chunk := make([]byte, r.IntN(20000))
		if r.IntN(3) == 0 {
			for i := range chunk {
				chunk[i] = byte(r.IntN(2))
			}
		}
		want = append(want, chunk...)
	}
	want = append(want, make([]byte, 1<<20)...)
	dest := filepath.Join(t.TempDir(), "os.raw")
	f, err := createPending(dest)
	if err != nil {
		t.Fatal(err)
	}
	for rest := want; len(rest) > 0; {
		n := min(len(rest), 1+r.IntN(30000))
		if m, err := f.Write(rest[:n]); err != nil || m != n {
			t.Fatal(m, err)
		}
		rest = rest[n:]
	}
	if err := f.commit(true); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dest)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("another content: %v", err)
	}
	info, err := os.Stat(dest)
	if err != nil {
		t.Fatal(err)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > int64(len(want))/2 {
		t.Errorf("%d bytes take %d on the disk", len(want), used)
	}
}

// A device is written to. To rename a file over it would take it from the whole machine.
func TestPendingFileKeepsDevices(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	read := make(chan string)
	go func() {
		b, err := os.ReadFile(pipe)
		read <- fmt.Sprint(string(b), err)
	}()
	f, err := createPending(pipe)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("content")); err != nil {
		t.Fatal(err)
	}
	if err := f.commit(true); err != nil {
		t.Fatal(err)
	}
	if got := <-read; got != "content<nil>" {
		t.Errorf("read %q", got)
	}
	if info, err := os.Lstat(pipe); err != nil || info.Mode().Type() != os.ModeNamedPipe {
		t.Errorf("the pipe became %v, %v", info, err)
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("left in the folder: %v", names)
	}

	go func() { _, _ = os.ReadFile(pipe) }()
	if err := writeFileAtomic(pipe, []byte("{}")); err != nil {
		t.Error(err)
	}
	if info, err := os.Lstat(pipe); err != nil || info.Mode().Type() != os.ModeNamedPipe {
		t.Errorf("the pipe became %v, %v", info, err)
	}

	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("target", link); err != nil {
		t.Fatal(err)
	}
	if f, err = createPending(link); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("new")); err != nil {
		t.Fatal(err)
	}
	if err := f.commit(false); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(link); err != nil || to != "target" {
		t.Errorf("the link became %q, %v", to, err)
	}
	if b, _ := os.ReadFile(target); string(b) != "new" {
		t.Errorf("target has %q", b)
	}
}

// A medium with a cloud-config is for its owner alone.
func TestMediumWithConfigIsPrivate(t *testing.T) {
	for config, want := range map[string]os.FileMode{"": 0o666 &^ umask(), "#cloud-config\n": 0o600} {
		dest := filepath.Join(t.TempDir(), "os.iso")
		set := outputSet{files: make([]*pendingFile, 1)}
		err := set.open(0, output{typ: "iso", dest: dest, attrs: map[string]string{"cloud-config": config}}, streams{})
		if err != nil {
			t.Fatal(err)
		}
		if err := set.files[0].commit(false); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(dest); err != nil || info.Mode().Perm() != want {
			t.Errorf("%q: %v, %v", config, info.Mode(), err)
		}
	}
}
