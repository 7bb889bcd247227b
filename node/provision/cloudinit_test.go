package provision

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// cloud-init gets what Kairos does not do itself, keeps its data sources in a cloud, and its word about disks.
func TestCloudInit(t *testing.T) {
	const sem = "var/lib/cloud/instances/i/sem/"
	text := "hostname: n1\nusers: [" + userYAML() +
		"]\nfs_setup: [{device: /dev/vdb, filesystem: ext4}]\nruncmd: ['true']\n"
	for vendor, cloud := range map[string]bool{"QEMU": false, "Amazon EC2": true} {
		s, dir := newSystem(t, layout.RoleSystem, map[string]string{
			cloudInitProgram[1:]: "", "sys/class/dmi/id/sys_vendor": vendor + "\n",
			sem + "config_disk_setup": "", sem + "config_write_files": "",
		})
		if problems := apply(t, s, parse(text)); problems != "" {
			t.Fatal(problems)
		}
		conf := get(t, dir, cloudInitConfig)
		if strings.Contains(conf, "datasource_list") == cloud {
			t.Errorf("%s: data sources: %s", vendor, conf)
		}
		if !strings.Contains(conf, "fs_setup") || !strings.Contains(conf, "users: []") ||
			strings.Contains(conf, "passwd") ||
			strings.Contains(conf, "runcmd") {
			t.Errorf("%s: %s", vendor, conf)
		}
		if _, err := os.Stat(filepath.Join(dir, cloudInitSeed, "meta-data")); (err == nil) == cloud {
			t.Errorf("%s: seed: %v", vendor, err)
		}
		if _, err := os.Stat(filepath.Join(dir, sem+"config_disk_setup")); err != nil {
			t.Error("the disk would be formatted again")
		}
		if _, err := os.Stat(filepath.Join(dir, sem+"config_write_files")); err == nil {
			t.Error("files in memory would not be written again")
		}
		if !strings.Contains(get(t, dir, "etc/passwd"), "kairos:") {
			t.Error("no user")
		}
	}
}

// A user "default" is cloud-init's business, and the others are not.
func TestDefaultUserOfCloudInit(t *testing.T) {
	for entry, want := range map[string]string{
		"default":                   "users:\n    - default\n",
		"{name: default, gecos: G}": "users:\n    - gecos: G\n      name: default\n",
	} {
		s, dir := newSystem(t, layout.RoleSystem, map[string]string{cloudInitProgram[1:]: ""})
		if problems := apply(t, s, parse("users: ["+entry+", "+userYAML()+"]\n")); problems != "" {
			t.Fatal(problems)
		}
		if conf := get(t, dir, cloudInitConfig); !strings.Contains(conf, want) || strings.Contains(conf, "kairos") {
			t.Errorf("%s: %s", entry, conf)
		}
		if strings.Contains(get(t, dir, "etc/passwd"), "default:") {
			t.Errorf("%s: there is an account of this name", entry)
		}
	}
}
