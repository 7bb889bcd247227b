package provision

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/layout"
)

// Where cloud-init reads, and what of it is ours.
const (
	cloudInitProgram = "/usr/bin/cloud-init"
	cloudInitConfig  = "/etc/cloud/cloud.cfg.d/95-kairos.cfg"
	cloudInitSeed    = "/var/lib/cloud/seed/nocloud"
)

func (s *System) hasCloudInit() bool { return s.exists(cloudInitProgram) }

// ephemeral are cloud-init's modules that do something once for each instance whose result is in memory on a node:
// they run at each boot. The others, such as the one that formats disks, keep cloud-init's word.
var ephemeral = []string{
	"apt_configure", "ca_certs", "chef", "keyboard", "locale", "mounts", "ntp", "resolv_conf", "rsyslog",
	"set_hostname", "set_passwords",
	"ssh_authkey_fingerprints", "ssh_import_id", "timezone", "update_etc_hosts", "users_groups", "write_files",
	"write_files_deferred", "yum_add_repo",
}

// seedCloudInit has an image's cloud-init do what of the config is its own business, beside what its data sources
// say. What Kairos applies itself, cloud-init does not see. On a machine that is no cloud's, where cloud-init
// would find no data source and do nothing at all, it is given one.
func (s *System) seedCloudInit(c *config.Config) error {
	if !s.hasCloudInit() || s.boot.Role == layout.RoleLive && c.Empty() {
		return nil
	}
	conf := map[string]any{"ssh_deletekeys": false}
	for _, i := range c.Report().Ignored {
		if key, _, _ := strings.Cut(i.Path, "."); i.CloudInit {
			key, _, _ = strings.Cut(key, "[")
			if v := c.Get(key); v != nil {
				conf[key] = v.Any()
			}
		}
	}
	if c.Hostname() != "" {
		conf["preserve_hostname"] = true
	}
	delete(conf, "users")
	if users := c.Get("users").Items(); len(users) > 0 {
		own := []any{} // the distribution's own user, where the config asks for it; ours are not its business
		for _, u := range users {
			if u.Text() == config.DefaultUser || u.Key("name").Text() == config.DefaultUser {
				own = append(own, u.Any())
			}
		}
		conf["users"] = own
	} else if keys := c.Keys(); len(keys) > 0 {
		conf["ssh_authorized_keys"] = keys
	}
	cloud := s.inCloud()
	if !cloud {
		conf["datasource_list"] = []string{"NoCloud", "None"}
	}
	b, err := yaml.Marshal(conf)
	if err != nil {
		return fmt.Errorf("seed cloud-init: %w", err)
	}
	if err := s.write(cloudInitConfig, b, 0o600); err != nil {
		return fmt.Errorf("seed cloud-init: %w", err)
	}
	if err := s.forgetInstance(); err != nil {
		return fmt.Errorf("seed cloud-init: %w", err)
	}
	if cloud {
		return nil
	}
	// An instance is an installation: what it keeps, such as "this disk was formatted", is on PERSISTENT.
	id := "kairos-" + s.line("etc/machine-id")
	for name, text := range map[string]string{
		"user-data": "#cloud-config\n{}\n",
		"meta-data": "instance-id: " + id + "\n",
	} {
		if err := s.write(cloudInitSeed+"/"+name, []byte(text), 0o600); err != nil {
			return fmt.Errorf("seed cloud-init: %w", err)
		}
	}
	return nil
}

// forgetInstance has cloud-init do again what the last boot has lost.
func (s *System) forgetInstance() error {
	instances, err := s.root.Dir("/var/lib/cloud/instances")
	if err != nil {
		return nil // the first boot
	}
	defer instances.Close()
	names, err := instances.Names()
	if err != nil {
		return err
	}
	for _, id := range names {
		sem, err := s.root.Dir("/var/lib/cloud/instances/" + id + "/sem")
		if err != nil {
			continue
		}
		for _, m := range ephemeral {
			for _, name := range []string{"config_" + m, "config_" + strings.ReplaceAll(m, "_", "-")} {
				err = firstError(err, sem.Remove(name))
			}
		}
		sem.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// clouds are words that the firmware of a cloud's machine has: those that cloud-init's own ds-identify looks for.
var clouds = []string{
	"amazon", "google", "openstack", "openTelekom", "digitalocean", "hetzner", "vultr", "akamai", "linode", "scaleway",
	"upcloud", "oraclecloud",
	"7783-7084-3265-9085-8269-3286-77", "alibaba", "tencent", "cloudsigma", "smartdc", "brightbox", "e24cloud",
	"exoscale", "nocloud", "vmware",
}

// inCloud says whether cloud-init's own data sources have something to find: metadata of a cloud, or a volume.
func (s *System) inCloud() bool {
	if s.Volume {
		return true
	}
	var b strings.Builder
	for _, name := range []string{
		"sys_vendor", "product_name", "product_serial", "product_version", "chassis_asset_tag", "chassis_vendor",
		"bios_vendor",
	} {
		b.WriteString(strings.ToLower(s.line("sys/class/dmi/id/"+name)) + "\n")
	}
	words := b.String()
	return slices.ContainsFunc(clouds, func(w string) bool { return strings.Contains(words, strings.ToLower(w)) }) ||
		strings.Contains(s.text("proc/cmdline"), "ds=")
}
