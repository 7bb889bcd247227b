//go:build vm

package live

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What goes wrong is said in a sentence that tells what to do, and leaves no file behind.
func TestErrors(t *testing.T) {
	for _, tc := range []struct {
		name       string
		dockerfile string
		args       []string
		want       []string
	}{
		{
			name:       "no kernel",
			dockerfile: "# syntax=kairos\nFROM debian:trixie\nRUN rm -rf /boot/* /usr/lib/modules/*\n",
			want:       []string{"no kernel", "install"},
		},
		{
			name:       "no kernel without the syntax line",
			dockerfile: "FROM debian:trixie\nRUN rm -rf /boot/* /usr/lib/modules/*\n",
			want:       []string{"no kernel", "install"},
		},
		{
			name:       "no modules",
			dockerfile: "# syntax=kairos\nFROM debian:trixie\nRUN rm -rf /usr/lib/modules/*\n",
			want:       []string{"not its modules", "install"},
		},
		{
			name:       "kernel without EROFS",
			dockerfile: "# syntax=kairos\nFROM debian:trixie\n" + withoutModule("erofs", "EROFS_FS"),
			want:       []string{"erofs", "kernel"},
		},
		{
			name:       "kernel without overlay",
			dockerfile: "# syntax=kairos\nFROM debian:trixie\n" + withoutModule("overlay", "OVERLAY_FS"),
			want:       []string{"overlay", "kernel"},
		},
		{
			name:       "kernel without dm-verity",
			dockerfile: "# syntax=kairos\nFROM debian:trixie\n" + withoutModule("dm-verity", "DM_VERITY"),
			want:       []string{"verity", "kernel"},
		},
		{
			name:       "no init",
			dockerfile: "# syntax=kairos\nFROM debian:trixie\nRUN rm -f /sbin/init /usr/lib/systemd/systemd\n",
			want:       []string{"init", "install"},
		},
		{
			name:       "base image missing",
			dockerfile: "# syntax=kairos\nFROM localhost:1/no/such:image\n",
			want:       []string{"localhost:1", "no/such", "oci-layout://"},
		},
		{
			name:       "OCI layout missing",
			dockerfile: "# syntax=kairos\nFROM debian:trixie\n",
			args:       []string{"--build-context", "debian:trixie=oci-layout:///nonexistent"},
			want:       []string{"/nonexistent", "not an OCI layout"},
		},
		{
			name:       "unknown attribute",
			dockerfile: "# syntax=kairos\nFROM debian:trixie\n",
			args:       []string{"--output", "type=iso,dest=DIR/a.iso,colour=blue"},
			want:       []string{"colour", "not known", "cloud-config"},
		},
		{
			name:       "unknown type",
			dockerfile: "# syntax=kairos\nFROM debian:trixie\n",
			args:       []string{"--output", "type=floppy,dest=DIR/a.img"},
			want:       []string{"floppy", "not known", "iso"},
		},
		{
			name:       "iso without dest",
			dockerfile: "# syntax=kairos\nFROM debian:trixie\n",
			args:       []string{"--output", "type=iso"},
			want:       []string{"dest="},
		},
		{
			name:       "folder of dest missing",
			dockerfile: "# syntax=kairos\nFROM debian:trixie\n",
			args:       []string{"--output", "type=iso,dest=DIR/no/such/a.iso"},
			want:       []string{"DIR/no/such", "no such"},
		},
		{
			name:       "dest cannot be written",
			dockerfile: "# syntax=kairos\nFROM debian:trixie\n",
			args:       []string{"--output", "type=iso,dest=/sys/a.iso"},
			want:       []string{"/sys/a.iso", "permi"},
		},
		{
			name:       "no Dockerfile",
			dockerfile: "",
			want:       []string{"no Dockerfile at", "--file"},
		},
		{
			name:       "syntax error",
			dockerfile: "# syntax=kairos\nFROM debian:trixie\nRUNN true\n",
			want:       []string{"line 3", "RUNN"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, source := t.TempDir(), t.TempDir()
			if tc.dockerfile != "" {
				write(t, filepath.Join(source, "Dockerfile"), tc.dockerfile)
			}
			args := buildArgs()
			for _, a := range tc.args {
				args = append(args, strings.ReplaceAll(a, "DIR", dir))
			}
			if !strings.Contains(strings.Join(tc.args, " "), "--output") {
				args = append(args, "--output", "type=iso,dest="+dir+"/a.iso")
			}
			out, err := runKairos(append(args, source)...)
			if err == nil {
				t.Fatalf("it succeeds:\n%s", tail(out, 10))
			}
			message := lastError(out)
			for _, want := range tc.want {
				if !strings.Contains(strings.ToLower(message), strings.ToLower(strings.ReplaceAll(want, "DIR", dir))) {
					t.Errorf("the error does not say %q:\n%s", want, message)
				}
			}
			checkEmpty(t, dir)
		})
	}
}

// lastError is the message that the program ends with.
func lastError(out string) string {
	if i := strings.LastIndex(out, "\nkairos: "); i >= 0 {
		return out[i+1:]
	}
	return out
}

// withoutModule is a RUN that takes a module out of the image's kernel.
func withoutModule(module, config string) string {
	return "RUN sed -i 's/^CONFIG_" + config + "=.*/# CONFIG_" + config + " is not set/' /boot/config-* && " +
		"for v in /usr/lib/modules/*; do find $v -name '" + module + ".ko*' -delete && depmod ${v##*/}; done\n"
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
}

func checkEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("left behind: %s", filepath.Join(dir, e.Name()))
	}
}

// A disk that is full while the ISO is written: the file that was there before stays as it is.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	iso := filepath.Join(dir, "os.iso")
	write(t, iso, "the ISO of yesterday")
	source := t.TempDir()
	write(t, filepath.Join(source, "Dockerfile"), "# syntax=kairos\nFROM debian:trixie\n")
	out, err := runKairos(buildArgs("--output", "type=iso,dest="+iso, source)...)
	if err == nil {
		t.Fatal("it succeeds")
	}
	if message := lastError(out); !strings.Contains(message, iso) || !strings.Contains(message, "no space left") {
		t.Errorf("the error does not say that there is no space for %s:\n%s", iso, message)
	}
	if b, err := os.ReadFile(iso); err != nil || string(b) != "the ISO of yesterday" {
		t.Errorf("the file that was there is now %d bytes, %v", len(b), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// A layer whose content is not what its digest says is refused.
func TestDamagedLayer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "base")
	copyTree(t, baseLayout, dir)
	layer := layerDigests(t, openImage(t, baseLayout))[0]
	blob := filepath.Join(dir, "blobs/sha256", strings.TrimPrefix(layer, "sha256:"))
	info, err := os.Stat(blob)
	if err != nil {
		t.Fatal(err)
	}
	flip(t, blob, info.Size()/2)

	source := t.TempDir()
	write(t, filepath.Join(source, "Dockerfile"), "# syntax=kairos\nFROM damaged\n")
	out := t.TempDir()
	log, err := runKairos(
		"build",
		"--progress",
		"plain",
		"--root",
		t.TempDir(),
		"--build-context",
		"damaged=oci-layout://"+dir,
		"--output",
		"type=iso,dest="+out+"/os.iso",
		source,
	)
	if err == nil {
		t.Fatal("it succeeds")
	}
	if message := lastError(log); !strings.Contains(message, "digest") && !strings.Contains(message, "checksum") &&
		!strings.Contains(message, "corrupt") {
		t.Errorf("the error does not say that the layer is damaged:\n%s", message)
	}
	checkEmpty(t, out)
}
