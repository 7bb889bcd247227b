package node

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/datasource"
)

// attach gives a root a volume labelled cidata with user data.
func attach(t *testing.T, root, text string) {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"sys/class/block/sr0", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "user-data"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(root, "dev/sr0")
	c := exec.Command("genisoimage", "-quiet", "-output", image, "-volid", "cidata", "-rock", "-joliet", dir)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// exists says that a root has a file.
func exists(root, name string) bool {
	_, err := os.Lstat(filepath.Join(root, name))
	return err == nil
}

// A live medium takes what is attached beside its own config, and so does an installed node without a config, which
// keeps it. A node that has one takes no other: whoever has a stick does not own it by that.
func TestAttachedConfig(t *testing.T) {
	const text = "#cloud-config\nwrite_files: [{path: /etc/attached, content: x}]\n"
	const own = "write_files: [{path: /etc/own, content: x}]\n"
	for _, tc := range []struct {
		name, role, own string
		taken           bool
	}{
		{"live", layout.RoleLive, own, true},
		{"installed without a config", layout.RoleSystem, "", true},
		{"installed with a config", layout.RoleSystem, own, false},
		{"recovery", layout.RoleRecovery, own, false},
	} {
		root := fakeRoot(t, tc.role, tc.own)
		if tc.own == "" {
			os.Remove(filepath.Join(root, "oem/90_custom.yaml"))
		}
		attach(t, root, text)
		if err := ApplyConfig(root); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if exists(root, "etc/attached") != tc.taken || exists(root, "etc/own") != (tc.own != "") {
			t.Errorf("%s: attached %v, own %v", tc.name, exists(root, "etc/attached"), exists(root, "etc/own"))
		}
		// What is kept is there without the volume, for root alone.
		os.Remove(filepath.Join(root, "dev/sr0"))
		os.Remove(filepath.Join(root, "etc/attached"))
		if err := ApplyConfig(root); err != nil || exists(root, "etc/attached") != tc.taken {
			t.Errorf("%s: without the volume: %v, %v", tc.name, exists(root, "etc/attached"), err)
		}
		if tc.role == layout.RoleSystem && tc.taken {
			info, err := os.Stat(filepath.Join(root, "oem/50_dev-sr0-cidata-user-data.yaml"))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: kept: %v", tc.name, err)
			}
		}
	}
}

// Where the image has cloud-init, that reads the volume: Kairos takes what cloud-init does not know, and gives it no
// other source.
func TestAttachedConfigWithCloudInit(t *testing.T) {
	root := fakeRoot(t, layout.RoleSystem, "")
	os.Remove(filepath.Join(root, "oem/90_custom.yaml"))
	attach(t, root, "#cloud-config\nwrite_files: [{path: /etc/attached, content: x}]\n"+
		"stages: {initramfs: [{files: [{path: /etc/stage, content: x}]}]}\n")
	program := filepath.Join(root, "usr/bin/cloud-init")
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := ApplyConfig(root); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"etc/stage": true, "etc/attached": false, "var/lib/cloud/seed/nocloud/user-data": false,
	} {
		if exists(root, name) != want {
			t.Errorf("%s: %v, want %v", name, !want, want)
		}
	}
	b, err := os.ReadFile(filepath.Join(root, "etc/cloud/cloud.cfg.d/95-kairos.cfg"))
	if err != nil || strings.Contains(string(b), "datasource_list") {
		t.Errorf("%s%v", b, err)
	}
}

// A disk without a config, on a cloud's machine and without cloud-init, gets what the metadata service says when there
// is a network, and keeps it. One that has a config asks nobody.
func TestMetadata(t *testing.T) {
	vendor := filepath.Join("sys/class/dmi/id", "sys_vendor")
	root := fakeRoot(t, layout.RoleSystem, "write_files: [{path: /etc/own, content: x}]\n")
	if err := os.MkdirAll(filepath.Join(root, filepath.Dir(vendor)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, vendor), []byte("Hetzner\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := ApplyConfig(root); err != nil || exists(root, layout.RunMetadata) {
		t.Fatalf("with a config: %v", err)
	}
	os.Remove(filepath.Join(root, "oem/90_custom.yaml"))
	if err := ApplyConfig(root); err != nil || !exists(root, layout.RunMetadata) ||
		!exists(root, layout.RunStages+"/network") {
		t.Fatalf("without a config: %v", err)
	}
	asked := 0
	ask := func(context.Context) ([]datasource.Config, error) {
		asked++
		return []datasource.Config{
			{Name: "cloud: metadata", Data: []byte("hostname: from-cloud\n")},
			{Name: "cloud: user data", Err: errors.New("a part is a script")},
		}, nil
	}
	if err := metadata(t.Context(), root, ask); err == nil || !strings.Contains(err.Error(), "a part is a script") {
		t.Errorf("what cannot be used: %v", err)
	}
	if err := metadata(t.Context(), root, ask); err != nil || asked != 1 {
		t.Errorf("asked %d times, %v", asked, err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "etc/hostname")); string(b) != "from-cloud\n" {
		t.Errorf("host name %q, %v", b, err)
	}
	os.Remove(filepath.Join(root, "etc/hostname"))
	if err := ApplyConfig(root); err != nil || exists(root, layout.RunMetadata) || !exists(root, "etc/hostname") {
		t.Errorf("the next start: %v", err)
	}
}
