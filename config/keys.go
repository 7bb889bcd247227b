package config

import (
	"fmt"
	"regexp"
	"strings"
)

func rootKeys() []*Key {
	return concat(systemKeys(), []*Key{
		installKey(), resetKey(), upgradeKey(), stagesKey(),
		kubernetesKey("k3s", "a k3s server"), kubernetesKey("k3s-agent", "a k3s agent"),
		kubernetesKey("k0s", "a k0s controller"), kubernetesKey("k0s-worker", "a k0s worker"),
	}, kairosKeys(), cloudInitKeys())
}

func concat(lists ...[]*Key) []*Key {
	var all []*Key
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

const template = "It may be a template, such as `node-{{ trunc 4 .MachineID }}`."

// systemKeys are those of cloud-init that take effect in every image.
func systemKeys() []*Key {
	return []*Key{
		key("name", tString, "What the file is for. It is for who reads the file."),
		key("hostname", tString, "The node's name. "+template).checked(checkHostname),
		key(
			"fqdn",
			tString,
			"The node's full name; its first part is the hostname where there is none.",
		).checked(checkHostname),
		key("manage_etc_hosts", tString, "Whether /etc/hosts gets a line for the node's name: true, or localhost.").
			oneOf("true", "false", "localhost", "template").differs("`template` is the same as true"),
		key("timezone", tString, "The time zone, such as Europe/Berlin.").checked(checkTimezone),
		key("locale", tString, "The locale, such as en_US.UTF-8."),
		object("ntp", "Time servers.",
			key("enabled", tBool, "Whether the time is synchronized; true where it is not said."),
			texts("servers", "Servers to ask."),
			texts("pools", "Names that stand for many servers."),
			key("ntp_client", tString, "").cloudInit("which client there is, the image decides"),
			key("config", tAny, "").cloudInit("settings of a client"),
		),
		texts(
			"ssh_authorized_keys",
			"Keys for the first user, or for root where there are no users; github:NAME and gitlab:NAME are fetched.",
		).
			differs("in the Kairos project every user of the same file gets them"),
		{
			Name: "users", Type: tList, Elem: &Key{Type: tUser, Keys: userKeys()},
			Doc: "Accounts. Each is made at the first boot that has it, and kept; an entry may be a name alone.",
		},
		list("write_files", "Files, written at every boot.", &Key{Type: tObject, Keys: writeFileKeys()}),
		list(
			"runcmd",
			"Commands that run once the system is up, at every boot. One that fails does not end the rest. "+
				"They may be templates.",
			&Key{Type: tCommand},
		).joined().secret(),
	}
}

func userKeys() []*Key {
	return []*Key{
		key("name", tString, "The account's name.").checked(checkUserName),
		key(
			"passwd",
			tString,
			"The password, plain or as a hash. A plain one is hashed, and not kept.",
		).secret().
			checked(oneLine),
		key("hashed_passwd", tString, "The password as a hash.").secret().checked(oneLine),
		key("plain_text_passwd", tString, "The password. It is hashed, and not kept.").secret().checked(oneLine),
		key(
			"lock_passwd",
			tBool,
			"Whether logging in with the password is refused; false where a password is given.",
		).also("lock-passwd", "lockPasswd"),
		texts(
			"ssh_authorized_keys",
			"Public keys; github:NAME and gitlab:NAME are fetched when the network is up, and kept. "+
				"Those that an earlier config had are taken back at the next boot.",
		).also("ssh-authorized-keys"),
		key("groups", tWords, "Further groups, made where they are missing. Members of admin may use sudo."),
		key("primary_group", tString, "The account's own group.").also("primary-group"),
		key("uid", tInt, "The number. Without it, the node chooses one, and keeps it.").checked(checkID),
		key("gecos", tString, "The full name.").checked(oneLine),
		key("homedir", tString, "The home; /home/NAME where it is not said.").checked(absolute),
		key("shell", tString, "The login shell.").checked(absolute),
		key("no_create_home", tBool, "Whether the home is not made.").also("no-create-home"),
		key("no_user_group", tBool, "Whether its group is users, and none of its name is made.").also("no-user-group"),
		key("system", tBool, "Whether it is an account of a service, with a low number."),
		key(
			"sudo",
			tLines,
			"Rules for sudo, such as `ALL=(ALL) NOPASSWD:ALL`. They are checked before they are used.",
		),
		ignored(
			"no_log_init",
			tBool,
			"an account's number does not change the size of the log here",
		).also("no-log-init"),
		key("expiredate", tString, "").cloudInit("give the account without a password, or remove its entry"),
		key("inactive", tString, "").cloudInit("give the account without a password, or remove its entry"),
		key("ssh_import_id", tAny, "").cloudInit("use ssh_authorized_keys: [github:NAME]").also("ssh-import-id"),
		key("ssh_redirect_user", tAny, "").cloudInit("log in as the account itself"),
		key("selinux_user", tString, "").cloudInit("the image's policy decides").also("selinux-user"),
		key("doas", tLines, "").cloudInit("write /etc/doas.d in the Dockerfile"),
		key("create_groups", tBool, "").cloudInit("groups are made"),
		refused("snapuser", "write ssh_authorized_keys"),
		refused("coreos_ssh_import_github", "write ssh_authorized_keys: [github:NAME]"),
		refused("coreos_ssh_import_github_users", "write ssh_authorized_keys: [github:NAME]"),
		refused("coreos_ssh_import_url", "write the keys into ssh_authorized_keys"),
	}
}

func writeFileKeys() []*Key {
	return []*Key{
		key("path", tString, "Where; folders are made.").checked(absolute),
		key("content", tString, "What. It may be a template.").secret().
			differs("one with a value that the machine does not have stays as it is"),
		key("encoding", tString, "How content is written: b64, gzip or both.").oneOf(encodings...),
		key("owner", tString, "USER or USER:GROUP; root:root where it is not said."),
		key(
			"permissions",
			tMode,
			"The file's permissions, such as \"0644\", setuid and sticky bits included; 0644 where they are not said.",
		).
			differs("644 is 0644, in quotes or not"),
		key("append", tBool, "Whether content is added to a file that is there. It is added once."),
		key("defer", tBool, "").cloudInit("accounts are there when files are written"),
		key("source", tAny, "").cloudInit("use a stage's downloads"),
	}
}

// encodings are those of cloud-init, with all their spellings.
var encodings = []string{
	"b64", "base64", "gzip", "gz", "gz+base64", "gzip+base64", "gz+b64", "gzip+b64", "text/plain",
}

func kubernetesKey(name, what string) *Key {
	k := object(
		name,
		"What runs "+what+", as a service of the binary that the image has.",
		key("enabled", tBool, "Whether it runs."),
		key(
			"args",
			tLines,
			"Further arguments. All users of the node can see them: a token belongs into env.",
		).secret().differs("a change after the installation takes effect at the next boot"),
		key("env", tEnv, "Variables of the service.").secret(),
		key("replace_args", tBool, "Whether args are all arguments."),
		key("replace_env", tBool, "Whether env are all variables."),
	)
	if strings.HasPrefix(name, "k3s") {
		k.Keys = append(k.Keys, key("embedded_registry", tBool, "Whether nodes serve images to each other."))
	}
	return k
}

// kairosKeys are the Kairos project's other keys at the top.
func kairosKeys() []*Key {
	return []*Key{
		ignored("config_url", tString, "write kairos.config_url= on the kernel's command line of the medium"),
		key("debug", tBool, "Whether /init says each of its steps: kairos.debug on the kernel's command line.").
			differs("it is part of the boot files, also of later releases, as install.grub_options.extra_cmdline is"),
		key("strict", tBool, "Whether a stage that fails makes a release on trial unhealthy."),
		healthKey(),
		list("cloud-init-paths", "Further folders with config files, read after all others.",
			(&Key{}).checked(absolute)).differs("those that a file in such a folder names are not read"),
		object("logs", "What `kairos-apply logs` collects beside what it always does.",
			texts("journal", "Units whose journal is added."),
			list("files", "Files, with * for any part of a name.", (&Key{}).checked(absolute)),
		),
		key("env", tEnv, "Variables of stages and of what they start.").secret(),
		ignored("grub_options", tMap, "it is read within install: write install.grub_options.extra_cmdline"),
		refused("bundles", "install what they bring in the image's Dockerfile"),
		ignored(
			"fail_on_bundles_errors",
			tBool,
			"there are no bundles: install what they bring in the image's Dockerfile",
		),
		refused("p2p", noMesh),
		refused("kairos", noMesh), // its name in the first version
		refused(
			"kubevip",
			"put kube-vip's manifest into k3s' folder of manifests: write_files to "+
				"/var/lib/rancher/k3s/server/manifests",
		),
		refused("cluster", "there is no kubeadm provider: run kubeadm in a stage"),
		refused("cosign", signedImage),
		refused("verify", signedImage),
		refused("cosign-key", signedImage),
		refused("kcrypt", noServer),
		refused("bind-pcrs", noServer),
		refused("bind-public-pcrs", noServer),
		refused("phonehome", "ask the node with `kairos-apply status -o json`"),
		ignored("eject-cd", tBool, "a CD leaves its drive at the restart after an unattended installation"),
		ignored("arch", tString, "the image says for which machine it is"),
		ignored("platform", tMap, "the image says for which machine it is"),
		ignored("squash-compression", tAny, "layers are EROFS: set the image's label io.kairos.compression"),
		ignored("squash-no-compression", tBool, "layers are EROFS: set the image's label io.kairos.compression"),
		ignored("uki-max-entries", tInt, "there are an active, a passive and a recovery release"),
		ignored("fullcloudconfig", tAny, "the whole file is read"),
		ignored("options", tMap, "nothing reads it: use the block install"),
		ignored("allow-insecure-registries", tAny, insecureWhy),
		key("growpart", tAny, "").cloudInit("the persistent partition grows by itself at the first boot"),
	}
}

const noMesh = "this system has no mesh of its own: give k3s or k0s its own server address and token"

func resetKey() *Key {
	return object(
		"reset",
		"What `kairos-apply reset` does where its flags do not say it.",
		key(
			"auto",
			tBool,
			"Whether the machine is reset, without asking, where nothing but its recovery system starts any more. "+
				"It waits for a person where that would only repeat what failed.",
		).differs("the Kairos project has none"),
		key("reboot", tBool, "Whether the machine restarts after it."),
		key("poweroff", tBool, "Whether the machine powers off after it."),
		key(
			"reset-persistent",
			tBool,
			"Whether what the node has kept is erased.",
		).differs("it is always erased: false is an error").
			checked(func(v *Value) (string, string) {
				if !v.Bool() {
					return "a reset always erases what the node has kept",
						"restore the release with `kairos-apply rollback` instead"
				}
				return "", ""
			}),
		key("reset-oem", tBool, "Whether the node's cloud-config is erased, too."),
		refused("system", "a reset restores what recovery has: `kairos-apply upgrade --recovery IMAGE` first"),
		refused("source", "a reset restores what recovery has: `kairos-apply upgrade --recovery IMAGE` first"),
		ignored("grub-entry-name", tString, "entries have the image's name and version"),
		ignored("tty", tString, "for a serial console write install.grub_options.extra_cmdline: console=ttyS0"),
		refused("extra-dirs-rootfs", "make the folders in the image's Dockerfile"),
	)
}

func upgradeKey() *Key {
	return object("upgrade", "What `kairos-apply upgrade` does where its arguments do not say it.",
		key("reboot", tBool, "Whether the machine restarts after it."),
		key("poweroff", tBool, "Whether the machine powers off after it."),
		key("recovery", tBool, "Whether the recovery system is upgraded in place of the active one."),
		key("source", tString, "The image, of whichever system is upgraded."),
		systemImage("system", "The active system.", "The image."),
		systemImage("recovery-system", "The recovery system.", "The image."),
		ignored("passive", tAny, sizesWhy),
		ignored("grub-entry-name", tString, "entries have the image's name and version"),
		ignored("allow-insecure-registries", tAny, insecureWhy),
		refused("entry", "an upgrade makes an entry of its own: use source, and recovery: true for that system"),
		refused("excluded-paths", "a release is the whole image: leave the paths out in its Dockerfile"),
		ignored("efi-partition", tAny, "the disk that was booted has one"),
		refused("extra-dirs-rootfs", "make the folders in the image's Dockerfile"),
	)
}

const insecureWhy = "use containerd's hosts.toml for the registry"

// signedImage is what there is in place of keys that ask for an image's signature.
const signedImage = "say whose signatures an image needs in /etc/containers/policy.json, or name a digest, as in " +
	"oci:registry/os@sha256:…, which is checked"

// systemImage is a system's block in install and upgrade.
func systemImage(name, doc, source string) *Key {
	return object(name, doc,
		key("source", tString, source+" It is an oci:, docker:, dir: or file: source.").also("uri"),
		ignored("size", tSize, sizesWhy),
		ignored("fs", tString, "a release is layers, and each layer is an EROFS blob"),
		ignored("label", tString, "a release is layers, and each layer is an EROFS blob"),
	)
}

const sizesWhy = "a release is layers and takes what they take: make room with partitions.state.size or " +
	"partitions.recovery.size"

const cloudInitWhy = "an image with cloud-init reads it, this system does not: "

func (k *Key) cloudInit(instead string) *Key {
	k.Status, k.Why = CloudInit, cloudInitWhy+instead
	k.Elem = &Key{Type: tAny}
	return k
}

var (
	hostnamePattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9][A-Za-z0-9-]{0,62})*$`)
	userPattern     = regexp.MustCompile(`^[a-z_][a-z0-9_.-]{0,30}\$?$`)
)

func checkHostname(v *Value) (string, string) {
	if name := v.Text(); !strings.Contains(name, "{{") && (!hostnamePattern.MatchString(name) || len(name) > 253) {
		return fmt.Sprintf("%s is no name of a machine", v.kind()), "use letters, digits and -"
	}
	return "", ""
}

func checkUserName(v *Value) (string, string) {
	if name := v.Text(); !strings.Contains(name, "{{") && !userPattern.MatchString(name) {
		return fmt.Sprintf(
			"%s is no name of an account",
			v.kind(),
		), "use small letters, digits, _, - and ., a letter first"
	}
	return "", ""
}

func checkTimezone(v *Value) (string, string) {
	if name := v.Text(); name == "" || strings.HasPrefix(name, "/") || strings.Contains(name, "..") {
		return fmt.Sprintf("%s is no time zone", v.kind()), "write a name such as Europe/Berlin"
	}
	return "", ""
}

func checkID(v *Value) (string, string) {
	if v.Int() > 1<<32-3 {
		return fmt.Sprintf("%s is no number of an account", v.kind()), ""
	}
	return "", ""
}

func oneLine(v *Value) (string, string) {
	if strings.ContainsAny(v.Text(), "\n\r\x00") {
		return "it has more than one line", "write it in one line"
	}
	return "", ""
}

func absolute(v *Value) (string, string) {
	if !strings.HasPrefix(v.Text(), "/") && !strings.HasPrefix(v.Text(), "{{") {
		return fmt.Sprintf("%s is no absolute path", v.kind()), "begin with /"
	}
	return "", ""
}
