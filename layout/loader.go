package layout

// LoaderConfig is systemd-boot's configuration on the ESP, and LoaderConfigText its content. It
// names no default entry: that would take the choice away from the try counters. An entry that does not load costs
// a try like any other failure, and the machine restarts, as long as it has tries left ("auto"). Only the recovery
// system is not counted: where that does not load, there is nothing else, and systemd-boot says so and goes back to
// the firmware.
const (
	LoaderConfig     = "loader/loader.conf"
	LoaderConfigText = "timeout 1\nconsole-mode keep\neditor no\nreboot-on-error auto\n"
)

// LoaderKeysDir holds, on a live medium, the keys that systemd-boot gives a firmware in setup mode: a file
// NAME.auth for each variable. See systemd-boot(7).
const LoaderKeysDir = "loader/keys/auto"
