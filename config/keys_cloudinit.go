package config

import "strings"

// cloudInitKeys are cloud-init's other keys. An image that has cloud-init gets them.
func cloudInitKeys() []*Key {
	const dockerfile = "do it in the image's Dockerfile"
	instead := []struct{ names, what string }{
		{"bootcmd", "use a stage's commands, as in stages.boot"},
		{"password", "use users and passwd"},
		{"chpasswd", "use users and passwd"},
		{"user", "use users"},
		{"groups", "groups of a user are made where they are missing"},
		{
			"disable_root disable_root_opts ssh_pwauth allow_public_ssh_keys",
			"write a file in /etc/ssh/sshd_config.d with write_files",
		},
		{
			"ssh ssh_deletekeys ssh_genkeytypes ssh_quiet_keygen ssh_publish_hostkeys no_ssh_fingerprints",
			"a node makes its host keys at its first boot",
		},
		{"ssh_keys", "write the files with write_files"},
		{"ssh_import_id", "use ssh_authorized_keys: [github:NAME]"},
		{"preserve_hostname prefer_fqdn_over_hostname create_hostname_file", "leave hostname out to keep the image's"},
		{"locale_configfile", "use locale"},
		{"keyboard", "use a stage's systemd_firstboot"},
		{"mounts mount_default_fields swap", "write a unit with write_files, or use a stage's commands"},
		{"disk_setup fs_setup device_aliases", "use install.extra-partitions, or a stage's commands"},
		{"resize_rootfs", "the persistent partition grows by itself at the first boot"},
		{"network", "write the network manager's files with write_files"},
		{"manage_resolv_conf resolv_conf", "use a stage's dns"},
		{"ca_certs ca-certs", "write the certificate with write_files, and run update-ca-certificates in runcmd"},
		{"power_state", "use install.reboot, or a stage's commands"},
		{"phone_home final_message output reporting byobu_by_default vendor_data", "use a stage's commands"},
		{"random_seed", "the kernel has its own"},
		{"apt apt_pipelining apk_repos yum_repos yum_repo_dir zypper", dockerfile},
		{
			"snap landscape lxd mcollective puppet chef salt_minion ansible spacewalk rsyslog rh_subscription " +
				"ubuntu_advantage ubuntu_pro updates",
			dockerfile,
		},
		{"wireguard", "write the interface's file with write_files"},
		{"drivers fan grub_dpkg rpi system_info", dockerfile},
		{
			"datasource datasource_list disable_ec2_metadata launch-index merge_how merge_type version autoinstall",
			"leave it out",
		},
	}
	var keys []*Key
	for _, i := range instead {
		for _, name := range strings.Fields(i.names) {
			k := key(name, tAny, "").cloudInit(i.what)
			k.Secret = name == "password" || name == "chpasswd" || name == "ssh_keys" || name == "wireguard"
			keys = append(keys, k)
		}
	}
	for _, name := range []string{"packages", "package_update", "package_upgrade", "package_reboot_if_required"} {
		keys = append(
			keys,
			refused(name, "the root of a release is read-only: install packages in the image's Dockerfile"),
		)
	}
	return append(keys, refused("milpa_files", "use write_files"))
}
