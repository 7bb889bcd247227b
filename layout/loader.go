package layout

// LoaderConfig is systemd-boot's configuration on the ESP, and LoaderConfigText its content. It
// names no default entry: that would take the choice away from the try counters. A release
// whose UKI does not load costs a try like any other failure, so the machine restarts.
const (
	LoaderConfig     = "loader/loader.conf"
	LoaderConfigText = "timeout 1\nconsole-mode keep\neditor no\nreboot-on-error yes\n"
)
