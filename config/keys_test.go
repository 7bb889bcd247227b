package config

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// forms has a line for every key of the schema and for each form that its value may have:
//
//	key | value | effect
//
// The effect is the value in the config, as JSON; ~ and a part of the reason for a key that is ignored; ^ for one that
// cloud-init reads; ! and a part of the message for one that is refused.
var forms = `
name | my node | "my node"
hostname | n1 | "n1"
hostname | "node-{{ trunc 4 .MachineID }}" | "node-{{ trunc 4 .MachineID }}"
hostname | 007 | "007"
hostname | a b | !no name of a machine
hostname | [a] | !want a string, not a list
fqdn | n1.example.org | "n1.example.org"
fqdn | n1..org | !no name of a machine
manage_etc_hosts | true | "true"
manage_etc_hosts | Yes | "true"
manage_etc_hosts | localhost | "localhost"
manage_etc_hosts | template | "template"
manage_etc_hosts | maybe | !want true, false, localhost or template
timezone | Europe/Berlin | "Europe/Berlin"
timezone | ../etc/passwd | !no time zone
locale | en_US.UTF-8 | "en_US.UTF-8"
ntp.enabled | on | true
ntp.servers | [a, b] | ["a","b"]
ntp.pools | [pool.ntp.org] | ["pool.ntp.org"]
ntp.ntp_client | chrony | ^
ntp.config | {a: 1} | ^
ssh_authorized_keys | ["github:octocat", ssh-ed25519 AAAA x] | ["github:octocat","ssh-ed25519 AAAA x"]
ssh_authorized_keys | github:octocat | !want a list
users | [kairos] | [{"name":"kairos"}]
users | [Kairos] | !no name of an account
users | {name: kairos} | !want a list
users[] | default | ^
users[] | {name: default, sudo: x} | ^
users[].name | kairos | "kairos"
users[].name | 007 | !no name of an account
users[].passwd | kairos | "kairos"
users[].passwd | $6$salt$hash | "$6$salt$hash"
users[].passwd | 1234 | "1234"
users[].passwd | "a\nb" | !more than one line
users[].hashed_passwd | $6$salt$hash | "$6$salt$hash"
users[].plain_text_passwd | kairos | "kairos"
users[].lock_passwd | true | true
users[].lock_passwd | "no" | false
users[].lock_passwd | OFF | false
users[].lock_passwd | Y | true
users[].lock-passwd | n | false
users[].lockPasswd | yes | true
users[].ssh_authorized_keys | ["gitlab:octocat"] | ["gitlab:octocat"]
users[].ssh-authorized-keys | [key] | ["key"]
users[].groups | [admin, video] | ["admin","video"]
users[].groups | "admin, video" | ["admin","video"]
users[].primary_group | staff | "staff"
users[].primary-group | staff | "staff"
users[].uid | 1001 | 1001
users[].uid | "1001" | 1001
users[].uid | -1 | !want a whole number
users[].gecos | A Person | "A Person"
users[].homedir | /srv/kairos | "/srv/kairos"
users[].homedir | srv | !no absolute path
users[].shell | /bin/bash | "/bin/bash"
users[].no_create_home | true | true
users[].no-create-home | true | true
users[].no_user_group | true | true
users[].no-user-group | true | true
users[].system | true | true
users[].sudo | ALL=(ALL) NOPASSWD:ALL | ["ALL=(ALL) NOPASSWD:ALL"]
users[].sudo | ["a", "b"] | ["a","b"]
users[].sudo | false | []
users[].no_log_init | true | ~does not change the size
users[].no-log-init | true | ~does not change the size
users[].expiredate | "2030-01-01" | ^
users[].inactive | 3 | ^
users[].ssh_import_id | ["gh:x"] | ^
users[].ssh-import-id | ["gh:x"] | ^
users[].ssh_redirect_user | true | ^
users[].selinux_user | x | ^
users[].selinux-user | x | ^
users[].doas | [permit nopass x] | ^
users[].create_groups | true | ^
users[].snapuser | x@y.z | !ssh_authorized_keys
users[].coreos_ssh_import_github | x | !github:NAME
users[].coreos_ssh_import_github_users | [x] | !github:NAME
users[].coreos_ssh_import_url | http://x | !ssh_authorized_keys
write_files[].path | /etc/a | "/etc/a"
write_files[].path | etc/a | !no absolute path
write_files[].content | hello | "hello"
write_files[].content | 5 | "5"
write_files[].encoding | b64 | "b64"
write_files[].encoding | gz+base64 | "gz+base64"
write_files[].encoding | base46 | !did you mean "base64"?
write_files[].owner | bar:bar | "bar:bar"
write_files[].permissions | 0644 | 420
write_files[].permissions | "0644" | 420
write_files[].permissions | 644 | 420
write_files[].permissions | 0o644 | 420
write_files[].permissions | 04755 | 2541
write_files[].permissions | "1777" | 1023
write_files[].permissions | 0999 | !want octal permissions
write_files[].permissions | u+x | !want octal permissions
write_files[].append | true | true
write_files[].defer | true | ^
write_files[].source | {uri: x} | ^
runcmd | [touch /x, [echo, a b]] | ["touch /x",["echo","a b"]]
runcmd | touch /x | !want a list
runcmd | [{a: b}] | !want a command
install.auto | true | true
install.device | auto | "auto"
install.device | /dev/disk/by-id/x | "/dev/disk/by-id/x"
install.device | script:///usr/bin/pick | "script:///usr/bin/pick"
install.device | sda | !write auto, a path
install.source | oci:registry.example/os:v1 | "oci:registry.example/os:v1"
install.image | oci:registry.example/os:v1 | "oci:registry.example/os:v1"
install.reboot | true | true
install.poweroff | true | true
install.no-format | true | true
install.no_format | true | true
install.force | true | true
install.partitions.bios | {size: 1} | !as GRUB needs it
` + partitionForms + `
install.partitions.oem.size | 4G | !write 4096
install.partitions.oem.size | 4 GiB | !write 4096
install.partitions.oem.size | big | !want a number of MiB
install.partitions.oem.size | 1.5 | !want a number of MiB
install.partitions.data | {size: 3} | !the key is not known
install.extra-partitions[].name | data | "data"
install.extra_partitions[].name | data | "data"
install.extra-partitions[].name | my data | !without spaces
install.extra-partitions[].label | DATA | "DATA"
install.extra-partitions[].label | COS_STATE | !do not begin with COS_
install.extra-partitions[].size | 100 | 100
install.extra-partitions[].fs | ext4 | "ext4"
install.extra-partitions[].fs | none | "none"
install.extra-partitions[].fs | btrfs | !want ext4
install.extra-partitions[].partition_label | x | ~what name says
install.extra-partitions[].flags | [esp] | ~no flags
install.extra-partitions[].uuid | x | ~identifiers
install.bind_mounts | [/mnt/a, /mnt/b/] | ["/mnt/a","/mnt/b/"]
install.bind_mounts | [relative] | !no clean absolute path
install.bind_mounts | [/usr] | !would hide the system
install.ephemeral_mounts | [/mnt/c] | ["/mnt/c"]
install.ephemeral_mounts | [/mnt/../etc] | !no clean absolute path
install.grub_options.extra_cmdline | quiet console=ttyS1 | "quiet console=ttyS1"
install.grub_options.extra_active_cmdline | x | !write extra_cmdline
install.grub_options.extra_passive_cmdline | x | !write extra_cmdline
install.grub_options.extra_recovery_cmdline | x | !write extra_cmdline
install.grub_options.default_menu_entry | x | ~name and version
install.grub_options.default_fallback | x | ~counts tries
install.grub_options.next_entry | x | !kairos-apply rollback
install.grub_options.saved_entry | x | !kairos-apply rollback
install.grub-entry-name | x | ~name and version
install.passive | {size: 4096} | ~a release is layers
install.extra-dirs-rootfs | [/data] | !Dockerfile
install.bundles | [{targets: [x]}] | !Dockerfile
install.env | [a=b, c=] | {"a":"b","c":""}
install.env | {a: 1} | {"a":"1"}
install.env | [a] | !want NAME=value
install.nousers | true | ~without users is installed
install.ssh_hardening | false | false
install.ssh_hardening | yes | !no user has a key
install.allow-insecure-registries | true | ~hosts.toml
install.encrypted_partitions | [COS_PERSISTENT] | ["COS_PERSISTENT"]
install.encrypted-partitions | [oem] | ["oem"]
install.encrypted_partitions | [COS_STATE] | !COS_OEM
install.skip_copy_kcrypt_plugin | true | ~no plugins
install.part-table | gpt | ~GPT
install.firmware | efi | ~UEFI and BIOS
install.iso | x | ~write source
install.cloud-init | [https://example.org/c.yaml] | !config of the medium
install.skip-entries | [x] | ~an active, a passive and a recovery
install.tty | ttyS0 | ~console=ttyS0
reset.auto | true | true
reset.reboot | true | true
reset.poweroff | on | true
reset.reset-persistent | true | true
reset.reset-persistent | false | !kairos-apply rollback
reset.reset-oem | true | true
reset.system | {source: x} | !kairos-apply upgrade --recovery
reset.source | x | !kairos-apply upgrade --recovery
reset.grub-entry-name | x | ~name and version
reset.tty | ttyS0 | ~console=ttyS0
reset.extra-dirs-rootfs | [/data] | !Dockerfile
upgrade.reboot | true | true
upgrade.poweroff | true | true
upgrade.recovery | true | true
upgrade.source | oci:x | "oci:x"
upgrade.allow-insecure-registries | true | ~hosts.toml
upgrade.passive | {size: 3} | ~a release is layers
upgrade.grub-entry-name | x | ~name and version
upgrade.entry | x | !an entry of its own
upgrade.excluded-paths | [/data] | !Dockerfile
upgrade.efi-partition | {size: 1} | ~the disk that was booted
upgrade.extra-dirs-rootfs | [/data] | !Dockerfile
` + imageForms + `
config_url | https://example.org/c.yaml | ~kernel's command line
debug | true | true
strict | true | true
health.checks | [network, units, kubelet] | ["network","units","kubelet"]
health.checks | [disk] | !want network, kubelet or units
health.network | https://example.org/healthz | "https://example.org/healthz"
health.network | oci:registry.example/os:v1 | "oci:registry.example/os:v1"
health.network | registry.example | !want https://
health.soak | 2m | "2m"
health.soak | 48h | !at most 24h
cloud-init-paths | [/some/path] | ["/some/path"]
cloud-init-paths | [some/path] | !no absolute path
logs.journal | [my-app] | ["my-app"]
logs.files | [/var/log/my/*.log] | ["/var/log/my/*.log"]
logs.files | [my.log] | !no absolute path
env | [a=b] | {"a":"b"}
grub_options | {extra_cmdline: x} | ~install.grub_options
bundles | [{targets: [x]}] | !Dockerfile
fail_on_bundles_errors | true | ~no bundles
p2p | {network_token: x} | !no mesh
kairos | {network_token: x} | !no mesh
kubevip | {eip: 1.2.3.4} | !kube-vip's manifest
cluster | {role: x} | !kubeadm
cosign | true | !digest
verify | true | !digest
cosign-key | x | !digest
kcrypt | {x: y} | !recovery key
bind-pcrs | [7] | !recovery key
bind-public-pcrs | [7] | !recovery key
phonehome | {url: x} | !kairos-apply status
eject-cd | true | ~leaves its drive
arch | amd64 | ~the image says
platform | {os: linux} | ~the image says
squash-compression | [x] | ~io.kairos.compression
squash-no-compression | true | ~io.kairos.compression
uki-max-entries | 3 | ~an active, a passive and a recovery
fullcloudconfig | x | ~the whole file
options | {a: b} | ~block install
allow-insecure-registries | true | ~hosts.toml
growpart | {devices: [/]} | ^
packages | [vim] | !Dockerfile
package_update | true | !Dockerfile
package_upgrade | true | !Dockerfile
package_reboot_if_required | true | !Dockerfile
milpa_files | [] | !write_files
` + kubernetesForms + stageForms

// form is one line of forms.
type form struct{ key, value, want string }

func allForms(t *testing.T) []form {
	t.Helper()
	var all []form
	for line := range strings.Lines(forms) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		parts := strings.Split(line, " | ")
		if len(parts) != 3 {
			t.Fatalf("%q: want three parts", line)
		}
		all = append(all, form{parts[0], parts[1], parts[2]})
	}
	// Those of cloud-init alone are all alike.
	for _, k := range root.Keys {
		for _, name := range append([]string{k.Name}, k.Aliases...) {
			if k.Status == CloudInit && name != "growpart" {
				all = append(all, form{name, "[x]", "^"})
			}
		}
	}
	return all
}

// text is a config that has the key, in YAML's flow style; at is the path that it has in there.
func (f form) text() (text, at string) {
	before, after := "", ""
	for i, part := range strings.Split(f.key, ".") {
		if part == "NAME" {
			part = "boot"
			if strings.HasPrefix(f.key, "stages.NAME[].") && i > 1 {
				part = "x"
			}
		}
		if part == "NAME[]" {
			part = "boot[]"
		}
		name, isList := strings.CutSuffix(part, "[]")
		before, after = before+"{"+name+": ", "}"+after
		at = join(at, name)
		if isList {
			before, after, at = before+"[", "]"+after, at+"[0]"
		}
	}
	value := f.value
	if strings.HasPrefix(f.key, "install.extra") && strings.Contains(f.key, "[].") { // a partition needs both
		for _, other := range []string{"name: other", "size: 1"} {
			if key, _, _ := strings.Cut(other, ":"); !strings.HasSuffix(f.key, "."+key) {
				value += ", " + other
			}
		}
	}
	return before + value + after, at
}

func TestEachForm(t *testing.T) {
	for _, f := range allForms(t) {
		text, at := f.text()
		c := parse(t, text)
		r := c.Report()
		if err := f.check(c, r, at); err != nil {
			t.Errorf("%s | %s: %v\n%s\n%s", f.key, f.value, err, text, r.Text())
		}
		for _, e := range r.Errors {
			if e.Pos.Line != 1 || e.Pos.Column == 0 {
				t.Errorf("%s | %s: the error is at %+v", f.key, f.value, e.Pos)
			}
		}
	}
}

func (f form) check(c *Config, r Report, at string) error {
	switch f.want[0] {
	case '!':
		if len(r.Errors) != 1 || !strings.HasPrefix(r.Errors[0].Path, at) ||
			!strings.Contains(r.Errors[0].Error(), f.want[1:]) {
			return fmt.Errorf("want an error that says %s", f.want[1:])
		}
		return nil
	case '~', '^':
		if len(r.Errors) > 0 || len(r.Ignored) != 1 || r.Ignored[0].Path != at ||
			!strings.Contains(r.Ignored[0].Why, f.want[1:]) {
			return fmt.Errorf("want it ignored: %s", f.want[1:])
		}
		if r.Ignored[0].CloudInit != (f.want == "^") || (c.Get(canonical(at)) != nil) != (f.want == "^") {
			return fmt.Errorf("it is for cloud-init, or is not")
		}
		return nil
	}
	if len(r.Errors)+len(r.Ignored) > 0 || len(r.Applied) == 0 || !strings.HasPrefix(r.Applied[0].Path, at) {
		return fmt.Errorf("want it applied")
	}
	b, err := json.Marshal(c.Get(canonical(at)).Any())
	if err != nil || string(b) != f.want {
		return fmt.Errorf("it is %s, want %s (%v)", b, f.want, err)
	}
	return nil
}

// canonical is a path with the keys' own names.
func canonical(at string) (path string) {
	known := root
	for part := range strings.SplitSeq(at, ".") {
		name, index, _ := strings.Cut(part, "[")
		if k := known.child(name); k != nil {
			if known.Type != tMap {
				name = k.Name
			}
			for known = k; known.Type == tList; {
				known = known.Elem
			}
		}
		path = join(path, name)
		if index != "" {
			path += "[" + index
		}
	}
	return path
}

// A key without a line in forms is a key that nobody has thought about.
func TestEachKeyHasAForm(t *testing.T) {
	have := map[string]bool{}
	for _, f := range allForms(t) {
		have[f.key] = true
	}
	var walk func(path string, k *Key)
	walk = func(path string, k *Key) {
		for _, c := range k.Keys {
			for _, name := range append([]string{c.Name}, c.Aliases...) {
				at := join(path, name)
				end := at
				for e := c; ; e = e.Elem {
					if e.Type == tObject || e.Type == tUser {
						if at == "stages.NAME[].users" { // the keys are those of users
							break
						}
						if c.Status == Applies && (e.Type != tUser || at == "users") && name == c.Name {
							walk(end, e)
						} else if c.Status != Applies && !have[at] {
							t.Errorf("%s has no line", at)
						}
						break
					}
					if e.Type != tList && e.Type != tMap || e.Elem == nil || nested(c) == nil {
						if !have[at] {
							t.Errorf("%s has no line", at)
						}
						break
					}
					end += map[Type]string{tList: "[]", tMap: ".NAME"}[e.Type]
				}
			}
		}
	}
	walk("", root)
}

const kubernetesForms = `
k3s.enabled | true | true
k3s.args | ["--disable=traefik"] | ["--disable=traefik"]
k3s.args | --disable=traefik | ["--disable=traefik"]
k3s.env | {K3S_TOKEN: x} | {"K3S_TOKEN":"x"}
k3s.env | [K3S_TOKEN=x] | {"K3S_TOKEN":"x"}
k3s.replace_args | true | true
k3s.replace_env | true | true
k3s.embedded_registry | true | true
k3s-agent.enabled | on | true
k3s-agent.args | [x] | ["x"]
k3s-agent.env | {a: b} | {"a":"b"}
k3s-agent.replace_args | true | true
k3s-agent.replace_env | true | true
k3s-agent.embedded_registry | true | true
k0s.enabled | "true" | true
k0s.args | [x] | ["x"]
k0s.env | {a: b} | {"a":"b"}
k0s.replace_args | true | true
k0s.replace_env | true | true
k0s.embedded_registry | true | !the key is not known
k0s-worker.enabled | maybe | !want true or false
k0s-worker.enabled | false | false
k0s-worker.args | [x] | ["x"]
k0s-worker.env | {a: b} | {"a":"b"}
k0s-worker.replace_args | true | true
k0s-worker.replace_env | true | true
`

// The five partitions and the systems are alike.
var partitionForms, imageForms = func() (partitions, images string) {
	for _, p := range []string{"efi", "oem", "recovery", "state", "persistent"} {
		fs, other := "ext4", "btrfs"
		if p == "efi" {
			fs, other = "vfat", "ext4"
		}
		at := "install.partitions." + p
		partitions += at + ".size | 60 | 60\n" + at + ".size | \"60\" | 60\n" + at + ".size | 0 | 0\n" +
			at + ".fs | " + fs + " | \"" + fs + "\"\n" + at + ".fs | " + other + " | !want " + fs + "\n" +
			at + ".name | x | ~fixed\n" + at + ".label | x | ~fixed\n" + at + ".flags | [x] | ~fixed\n"
	}
	for _, at := range []string{
		"install.system", "install.recovery-system", "upgrade.system", "upgrade.recovery-system",
	} {
		images += at + ".source | oci:x | \"oci:x\"\n" + at + ".uri | oci:x | \"oci:x\"\n" + at +
			".size | 4096 | ~a release is layers\n" +
			at + ".fs | ext2 | ~EROFS\n" + at + ".label | x | ~EROFS\n"
	}
	return partitions, images
}()

const stageForms = `
stages | [a] | !want a map
stages.boot | {commands: [a]} | !want a list
stages.boot[].command | [a] | !did you mean "commands"?
stages.bot | [] | !did you mean "boot"?
stages.after-install-chroot | [{commands: [a]}] | !Dockerfile
stages | {provider-kairos.bootstrap.before.master: [{commands: [a]}]} | !boot.after
stages | {boot.after: [{name: a}]} | {"boot.after":[{"name":"a"}]}
stages | {my.stage: [{name: a}]} | {"my.stage":[{"name":"a"}]}
stages.NAME[].name | greet | "greet"
stages.NAME[].commands | [echo a, echo a] | ["echo a","echo a"]
stages.NAME[].commands | echo a | !write [echo a]
stages.NAME[].files[].path | /a | "/a"
stages.NAME[].files[].permissions | 0600 | 384
stages.NAME[].files[].permissions | "0600" | 384
stages.NAME[].files[].owner | 1000 | 1000
stages.NAME[].files[].owner | root | !want a whole number
stages.NAME[].files[].group | 100 | 100
stages.NAME[].files[].ownerstring | "a:b" | "a:b"
stages.NAME[].files[].owner_string | "a:b" | "a:b"
stages.NAME[].files[].content | x | "x"
stages.NAME[].files[].encoding | b64 | "b64"
stages.NAME[].directories[].path | /a | "/a"
stages.NAME[].directories[].permissions | 01777 | 1023
stages.NAME[].directories[].owner | 0 | 0
stages.NAME[].directories[].group | 0 | 0
stages.NAME[].directories[].ownerstring | a | "a"
stages.NAME[].directories[].owner_string | a | "a"
stages.NAME[].downloads[].path | /a | "/a"
stages.NAME[].downloads[].permissions | 0700 | 448
stages.NAME[].downloads[].owner | 0 | 0
stages.NAME[].downloads[].group | 0 | 0
stages.NAME[].downloads[].ownerstring | a | "a"
stages.NAME[].downloads[].owner_string | a | "a"
stages.NAME[].downloads[].url | https://example.org/x | "https://example.org/x"
stages.NAME[].downloads[].timeout | 30 | 30
stages.NAME[].if | "[ -e /x ]" | "[ -e /x ]"
stages.NAME[].only_os | debian | "debian"
stages.NAME[].only_os_version | "13" | "13"
stages.NAME[].only_arch | amd64 | "amd64"
stages.NAME[].only_service_manager | systemd | "systemd"
stages.NAME[].only_service_manager | runit | !want systemd or openrc
stages.NAME[].if_files | {any: [/a], none: [/b]} | {"any":["/a"],"none":["/b"]}
stages.NAME[].if_files | {each: [/a]} | !any, all or none
stages.NAME[].node | n1 | "n1"
stages.NAME[].after[].name | greet | "greet"
stages.NAME[].hostname | "node-{{ .MachineID }}" | "node-{{ .MachineID }}"
stages.NAME[].users | {kairos: {passwd: x, lock_passwd: no}} | {"kairos":{"lock_passwd":false,"passwd":"x"}}
stages.NAME[].users | {Kairos: {passwd: x}} | !no name of an account
stages.NAME[].authorized_keys | {kairos: ["github:octocat"]} | {"kairos":["github:octocat"]}
stages.NAME[].dns.nameservers | [8.8.8.8] | ["8.8.8.8"]
stages.NAME[].dns.search | [a] | ["a"]
stages.NAME[].dns.options | [a] | ["a"]
stages.NAME[].dns.path | /etc/resolv.conf | "/etc/resolv.conf"
stages.NAME[].sysctl | {vm.swappiness: 10} | {"vm.swappiness":"10"}
stages.NAME[].modules | [nvidia] | ["nvidia"]
stages.NAME[].systemctl.enable | [a] | ["a"]
stages.NAME[].systemctl.disable | [a] | ["a"]
stages.NAME[].systemctl.start | [a] | ["a"]
stages.NAME[].systemctl.mask | [a] | ["a"]
stages.NAME[].systemctl.overrides[].service | a | "a"
stages.NAME[].systemctl.overrides[].content | a | "a"
stages.NAME[].systemctl.overrides[].name | a | "a"
stages.NAME[].environment | {A: 1} | {"A":"1"}
stages.NAME[].environment_file | /etc/e | "/etc/e"
stages.NAME[].systemd_firstboot | {keymap: us} | {"keymap":"us"}
stages.NAME[].timesyncd | {NTP: a} | {"NTP":"a"}
stages.NAME[].ensure_entities | [{path: /etc/passwd}] | !users:
stages.NAME[].delete_entities | [{path: /etc/passwd}] | !Dockerfile
stages.NAME[].layout | {device: {path: /dev/sdb}} | !extra-partitions
stages.NAME[].datasource | {providers: [aws]} | !cloud-init
stages.NAME[].git | {url: x} | !git clone
stages.NAME[].unpack_images | [{source: a}] | !Dockerfile
stages.NAME[].packages | {install: [vim]} | !Dockerfile
stages.NAME[].package_pins | {vim: "9"} | !Dockerfile
`
