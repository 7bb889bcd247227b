package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/layout"
)

// hookLog has each hook add its name to a file.
func hookLog(t *testing.T, commands ...string) (conf, log string) {
	log = filepath.Join(t.TempDir(), "log")
	var b strings.Builder
	b.WriteString("env: {LOG: " + log + "}\nstages:\n")
	for _, c := range commands {
		before, after := config.Hooks(c)
		for _, stage := range append(before, after...) {
			b.WriteString("  " + stage + ": [{commands: ['echo " + stage + " $WHO >> $LOG']}]\n")
		}
	}
	return b.String(), log
}

func lines(t *testing.T, name string) string {
	b, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(b)), " ")
}

func writeOEM(t *testing.T, m *Machine, text string) {
	if err := os.WriteFile(filepath.Join(m.OEM, "90_test.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestUpgradeRunsItsHooks(t *testing.T) {
	a, b, c := threeImages(t)
	disk := t.TempDir()
	m := install(t, disk, layout.FirmwareUEFI, t.TempDir(), a)
	conf, log := hookLog(t, "install", "upgrade", "reset")
	writeOEM(t, m, conf)

	if r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()}); err != nil || !r.Changed {
		t.Fatal(r, err)
	}
	const all = "kairos-uki-upgrade.pre before-upgrade after-upgrade kairos-uki-upgrade.after"
	if got := lines(t, log); got != all {
		t.Errorf("hooks of an upgrade: %q", got)
	}
	// Nothing is changed, and nothing runs.
	if r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()}); err != nil || r.Changed {
		t.Fatal(r, err)
	}
	if got := lines(t, log); got != all {
		t.Errorf("hooks of an upgrade that changes nothing: %q", got)
	}
	if r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source(), Recovery: true}); err != nil || !r.Changed {
		t.Fatal(r, err)
	}
	if got := lines(t, log); got != all+" "+all {
		t.Errorf("hooks of the recovery system's upgrade: %q", got)
	}
	// An installation has an upgrade within: its hooks are the installation's.
	if _, err := m.upgrade(t.Context(), UpgradeOptions{Source: c.source()}, nil); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, log); got != all+" "+all {
		t.Errorf("hooks of an upgrade within an installation: %q", got)
	}
}

func TestHookThatFails(t *testing.T) {
	const fails = "stages: {before-upgrade: [{name: look, commands: ['echo no room >&2; false']}]}\n"
	a, b, _ := threeImages(t)
	disk := t.TempDir()
	m := install(t, disk, layout.FirmwareUEFI, t.TempDir(), a)

	writeOEM(t, m, "strict: true\n"+fails)
	r, err := m.Upgrade(t.Context(), UpgradeOptions{Source: b.source()})
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "no room") {
		t.Errorf("an upgrade whose hook fails, and the config is strict: %+v, %v", r, err)
	}
	if m.complete(m.State, b.id) {
		t.Error("the release was staged")
	}
	if order, err := bootable(disk, layout.FirmwareUEFI); err != nil || order[0].ID != a.id {
		t.Errorf("boots %v, %v", order, err)
	}

	writeOEM(t, m, fails)
	var notes []string
	note := func(e Event) { notes = append(notes, e.Text) }
	r, err = m.Upgrade(t.Context(), UpgradeOptions{Source: b.source(), Progress: note})
	if err != nil || !r.Changed {
		t.Errorf("an upgrade whose hook fails: %+v, %v", r, err)
	}
	if !strings.Contains(strings.Join(notes, "\n"), "no room") {
		t.Errorf("notes %q", notes)
	}
	problems := configProblems(m.Root)
	if len(problems) != 2 || !strings.Contains(problems[1].Output, "no room") {
		t.Errorf("status shows %v", problems)
	}
	// It says nothing about the health of the release that runs.
	writeOEM(t, m, "strict: true\n")
	if why := failedStage(m.Root, m.Boot); why != "" {
		t.Errorf("unhealthy: %s", why)
	}

	writeOEM(t, m, "strict: true\nstages: {after-upgrade: [{commands: ['echo late >&2; false']}]}\n")
	r, err = m.Upgrade(t.Context(), UpgradeOptions{Source: a.source()})
	if err == nil || !strings.Contains(err.Error(), "the upgrade is done") || !r.Changed {
		t.Errorf("an upgrade after which a hook fails: %+v, %v", r, err)
	}
}

// What comes before a reset ends it while everything still boots.
func TestResetAsksItsHooksFirst(t *testing.T) {
	a, _, _ := threeImages(t)
	disk := t.TempDir()
	m := install(t, disk, layout.FirmwareUEFI, t.TempDir(), a)
	conf, log := hookLog(t, "upgrade", "reset")
	m.Boot.Role = layout.RoleRecovery
	writeOEM(t, m, "strict: true\n"+conf+"  before-reset.after: [{commands: [exit 3]}]\n")
	_, err := m.Reset(t.Context(), ResetOptions{OEM: true})
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "before the reset") {
		t.Errorf("a reset whose hook fails: %v", err)
	}
	if got := lines(t, log); got != "kairos-uki-reset.pre before-reset" {
		t.Errorf("hooks %q", got)
	}
	if order, err := bootable(disk, layout.FirmwareUEFI); err != nil || len(order) != 2 || order[0].ID != a.id {
		t.Errorf("boots %v, %v", order, err)
	}
}

// The image's own hooks run with those of the config that is installed, and see install.env.
func TestHooksOfAnInstallation(t *testing.T) {
	m := &Machine{Root: t.TempDir(), Boot: layout.Boot{Role: layout.RoleLive}}
	if err := os.MkdirAll(filepath.Join(m.Root, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(m.Root, layout.ImageConfigDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	conf, log := hookLog(t, "install")
	const image = "stages: {before-install: [{commands: ['echo image >> $LOG']}]}\n"
	if err := os.WriteFile(filepath.Join(dir, "10_image.yaml"), []byte(image), 0o644); err != nil {
		t.Fatal(err)
	}
	c := config.Merge(config.Parse("config.yaml", []byte(conf+"install: {env: {WHO: me}}\n")))
	h := &hooks{m: m, command: "install", config: m.imageConfig().With(c), env: c.Install().Env}
	if err := h.before(t.Context()); err != nil {
		t.Fatal(err)
	}
	const before = "kairos-install.pre me kairos-uki-install.pre me image before-install me"
	if got := lines(t, log); got != before {
		t.Errorf("before: %q", got)
	}
	if err := h.after(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, log); got != before+" after-install me kairos-install.after me kairos-uki-install.after me" {
		t.Errorf("after: %q", got)
	}
}

// no-format keeps what the disk has, and goes over a system that is there only where that is meant.
func TestInstallWithoutFormat(t *testing.T) {
	a, b, _ := threeImages(t)
	from := install(t, t.TempDir(), layout.FirmwareUEFI, t.TempDir(), b)
	release, err := from.State.Release(b.id)
	if err != nil {
		t.Fatal(err)
	}
	disk := t.TempDir()
	m := install(t, disk, layout.FirmwareUEFI, t.TempDir(), a)
	conf := func(text string) InstallOptions {
		text = "install: {no-format: true" + text + "}"
		return InstallOptions{Config: config.Merge(config.Parse("c.yaml", []byte(text)))}
	}
	err = m.adopt(t.Context(), from.State, release, conf(""))
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "install.force") {
		t.Errorf("over a system: %v", err)
	}
	if m.complete(m.State, b.id) {
		t.Error("the release was copied")
	}
	if order, err := bootable(disk, layout.FirmwareUEFI); err != nil || order[0].ID != a.id {
		t.Errorf("boots %v, %v", order, err)
	}
	if err := m.adopt(t.Context(), from.State, release, conf(", force: true")); err != nil {
		t.Fatal(err)
	}
	if order, err := bootable(disk, layout.FirmwareUEFI); err != nil || order[0].ID != b.id {
		t.Errorf("boots %v, %v", order, err)
	}
	// The same command again, as after an interruption, needs no force.
	if err := m.adopt(t.Context(), from.State, release, conf("")); err != nil {
		t.Error(err)
	}
}
