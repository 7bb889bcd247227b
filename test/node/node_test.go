//go:build vm

// Package node tests a node's life in virtual machines: install, upgrade, fall back, recover. The
// images are examples/debian and images on top of it.
//
// `make test-vm` makes what it starts from: build/bin/kairos and build/base. It runs as root.
package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	klayout "github.com/kairos-buildkit/kairos/layout"
)

// Paths from this folder.
const (
	exampleDir = "../../examples/debian"
	kairosBin  = "../../build/bin/kairos"
	baseLayout = "../../build/base/debian-trixie"
	workDir    = "../../build/test/node"
	stateDir   = "../../build/test/state"
)

const epoch = "1772323200"

func made(path string) bool {
	_, err := os.Stat(path)
	return vmtest.Reuse && err == nil
}

func TestMain(m *testing.M) {
	vmtest.Main(m, workDir, nil, kairosBin, baseLayout+"/index.json")
}

func run(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=", "DOCKER_CONFIG=/nonexistent")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// images are the builds of this run by their names.
var images sync.Map

// buildImage builds a context as an OCI layout in workDir: once, whoever asks.
func buildImage(name, context string, args ...string) (string, error) {
	once, _ := images.LoadOrStore(name, sync.OnceValues(func() (string, error) {
		dest := filepath.Join(workDir, name+".oci")
		if made(filepath.Join(dest, "index.json")) {
			return dest, nil
		}
		if err := os.RemoveAll(dest); err != nil {
			return "", err
		}
		return dest, run(kairosBin, append([]string{"build", "--progress", "plain", "--root", stateDir,
			"--build-context", "debian:trixie=oci-layout://" + baseLayout, "--build-arg", "SOURCE_DATE_EPOCH=" + epoch,
			"--label", klayout.ImageLabelVersion + "=" + name,
			"--output", "type=oci,tar=false,rewrite-timestamp=true,dest=" + dest, context}, args...)...)
	}))
	return once.(func() (string, error))()
}

// rootShell is a command line for an image whose releases have some seconds to be blessed.
func rootShell(seconds int) string {
	return fmt.Sprintf("%s panic=2 %s=%d", vmtest.RootShellCmdline, klayout.CmdlineDeadline, seconds)
}

// rootShellLabel gives the example's machines a root shell.
var rootShellLabel = klayout.ImageLabelCmdline + "=" + rootShell(400)

func example() (string, error) {
	return buildImage("v1", exampleDir, "--label", rootShellLabel)
}

// derived builds an ordinary image on top of the example: no syntax line, only these instructions.
func derived(t *testing.T, name, instructions string) string {
	t.Helper()
	return derivedFrom(t, get(t, example), name, instructions)
}

func derivedFrom(t *testing.T, base, name, instructions string) string {
	t.Helper()
	dir := t.TempDir()
	err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM example\n"+instructions+"\n"), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	img, err := buildImage(name, dir, "--build-context", "example=oci-layout://"+base)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func get(t *testing.T, make func() (string, error)) string {
	t.Helper()
	s, err := make()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sshKey is the key that the installation's config allows.
var sshKey = sync.OnceValues(func() (string, error) { return sshKeyNamed("key") })

func sshKeyNamed(name string) (string, error) {
	path := filepath.Join(workDir, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
}

// medium is the example's live medium.
var medium = sync.OnceValues(func() (string, error) {
	oci, err := example()
	if err != nil {
		return "", err
	}
	return makeMedium("example", oci)
})

// makeMedium makes a live medium of an image, with a config that installs it unattended.
func makeMedium(name, oci string) (string, error) {
	iso := filepath.Join(workDir, name+".iso")
	if made(iso) {
		return iso, nil
	}
	file, err := configFile(name, `install:
  auto: true
  device: auto
  poweroff: true
  bind_mounts: [/var/lib/app]
`)
	if err != nil {
		return "", err
	}
	return iso, run(kairosBin, "export", "-o", "type=iso,dest="+iso, "--cloud-config", file, "oci-layout:"+oci)
}

// configFile writes the config that all these machines get, with the first one of the Kairos project's documentation
// in it, and with a block for the installation.
func configFile(name, install string) (string, error) {
	key, err := sshKey()
	if err != nil {
		return "", err
	}
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		return "", err
	}
	keys, err := startKeyServer()
	if err != nil {
		return "", err
	}
	config := `#cloud-config
hostname: node-{{ trunc 4 .MachineID }}
users:
  - name: kairos
    passwd: kairos
    groups: [admin]
    ssh_authorized_keys: ["github:` + keyAccount + `"]
  - name: tester
    shell: /bin/bash
    ssh_authorized_keys: ["` + strings.TrimSpace(string(pub)) + `"]
write_files:
  - path: /etc/from-config
    content: "from config\n"
    permissions: "0600"
  # It stands in for k3s, and records how it was started.
  - path: /usr/local/bin/k3s
    permissions: 0755
    content: |
      #!/bin/sh
      echo "$* $K3S_TOKEN" >/run/k3s-started
      systemd-notify --ready
      exec sleep infinity
` + keys.config() + `stages:
  initramfs:
    - files: [{path: /etc/from-stage, content: "{{ .Values.node.machineid }}", permissions: 04750}]
  boot:
    - name: boot
      commands: [touch /run/boot-ran]
  network:
    - commands: [touch /run/network-ran]
  kairos-install.after:
    - commands: [echo The hook ran after the installation. >/dev/console]
  before-upgrade: [{commands: [echo before >>/run/upgrade-hooks]}]
  after-upgrade: [{commands: [echo after >>/run/upgrade-hooks]}]
  before-reset: [{commands: [echo before >>/run/reset-hooks]}]
  after-reset: [{commands: [echo after >>/run/reset-hooks]}]
k3s:
  enabled: true
  args: [--flannel-backend=none]
  env: {K3S_TOKEN: secret}
runcmd:
  - exit 3
  - touch /run/runcmd-ran
` + install
	file := filepath.Join(workDir, name+".yaml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return "", err
	}
	return file, nil
}

// installed keeps, for each firmware, the machine that all tests begin with: the system is
// installed and has booted from its disk, its release is blessed.
type installed struct {
	sync.Mutex
	frozen vmtest.Frozen
	done   bool
}

var installations = map[qemu.Firmware]*installed{qemu.UEFI: {}, qemu.BIOS: {}}

// get returns the machine as it is after its first boot.
func (i *installed) get(t *testing.T, firmware qemu.Firmware) vmtest.Frozen {
	t.Helper()
	i.Lock()
	defer i.Unlock()
	dir := installedDir(firmware)
	if !i.done && vmtest.Reuse {
		i.frozen, i.done = vmtest.Kept(dir)
	}
	if !i.done {
		i.frozen, i.done = install(t, firmware, get(t, medium), dir).Freeze(dir), true
	}
	return i.frozen
}

func installedDir(firmware qemu.Firmware) string {
	return filepath.Join(workDir, "installed-"+string(firmware))
}

// installLog is the log of what the installation wrote to the disk.
func installLog(firmware qemu.Firmware) string {
	return filepath.Join(installedDir(firmware), writes)
}

// writes is the name of that log in the installation's folder.
const writes = "writes"

// diskSize is the size in bytes of the disk that the tests install to.
const diskSize = 6 << 30

// install installs the system from the medium, with nobody at the console, and boots it.
func install(t *testing.T, firmware qemu.Firmware, medium, dir string) *vmtest.VM {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d := qemu.Drive{Path: filepath.Join(dir, "disk.qcow2"), Format: "qcow2", Serial: "system"}
	if err := run("qemu-img", "create", "-q", "-f", "qcow2", d.Path, strconv.FormatInt(diskSize, 10)); err != nil {
		t.Fatal(err)
	}
	installer := vmtest.Start(t,
		qemu.Machine{
			Firmware: firmware,
			NoNet:    true,
			Drives:   []qemu.Drive{{Path: medium, CDROM: true}, vmtest.WriteLog(t, d, filepath.Join(dir, writes))},
		})
	installer.Expect("The hook ran after the installation", 15*time.Minute)
	installer.WaitOff(5 * time.Minute)
	m := &machine{VM: vmtest.Start(t, qemu.Machine{Firmware: firmware, Drives: []qemu.Drive{d}}), t: t}
	m.up()
	m.blessed()
	return m.VM
}

// machine is a running machine with the system installed.
type machine struct {
	*vmtest.VM
	t *testing.T
}

// start returns a running machine whose release is blessed.
func start(t *testing.T, firmware qemu.Firmware) *machine {
	t.Helper()
	return thaw(t, installations[firmware].get(t, firmware))
}

// thaw returns a running machine that was frozen.
func thaw(t *testing.T, f vmtest.Frozen) *machine {
	t.Helper()
	m := &machine{VM: vmtest.Thaw(t, f, qemu.Forward{Guest: 22}), t: t}
	m.RootShell()
	return m
}

// up waits for the login prompt and a root shell.
func (m *machine) up() {
	m.t.Helper()
	m.WaitLogin()
	m.RootShell()
}

// blessed waits until the running release was assessed.
func (m *machine) blessed() {
	m.t.Helper()
	if out, code := m.RunWithin(5*time.Minute, "until [ -e /run/kairos/blessed ]; do sleep 1; done"); code != 0 {
		m.t.Fatal(out)
	}
}

// online waits until the machine has a default route: a login prompt and a blessing may come before it.
func (m *machine) online() {
	m.t.Helper()
	const route = `until grep -q "$(printf '^[^\t]*\t00000000\t')" /proc/net/route; do sleep 1; done`
	if out, code := m.RunWithin(5*time.Minute, route); code != 0 {
		m.t.Fatal(out)
	}
}

// reboot restarts the machine in order.
func (m *machine) reboot() {
	m.t.Helper()
	m.soon("systemctl reboot")
	m.up()
}

// soon runs a command a moment later, when the shell has answered.
func (m *machine) soon(command string) {
	m.t.Helper()
	m.Check("systemd-run --on-active=1 --timer-property=AccuracySec=100ms " + command + " 2>&1")
}

func (m *machine) status() api.Status {
	m.t.Helper()
	var s api.Status
	out := m.Check("kairos-apply status -o json")
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		m.t.Fatalf("%v\n%s", err, out)
	}
	return s
}

// apply runs kairos-apply, which must succeed.
func (m *machine) apply(args string) string {
	m.t.Helper()
	out, code := m.RunWithin(10*time.Minute, "kairos-apply "+args)
	if code != 0 {
		m.t.Fatalf("kairos-apply %s: exit code %d\n%s", args, code, out)
	}
	return out
}

// sshRun runs a command over ssh with the configured key.
func (m *machine) sshRun(command string) (string, error) {
	key, err := sshKey()
	if err != nil {
		return "", err
	}
	return m.sshAs("tester", key, command)
}

// sshAs runs a command over ssh as a user.
func (m *machine) sshAs(user, key, command string) (string, error) {
	out, err := exec.Command("ssh", "-i", key, "-p", fmt.Sprint(m.Port(22)), "-o", "BatchMode=yes", "-o",
		"StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60", user+"@127.0.0.1",
		command).
		CombinedOutput()
	return string(out), err
}

// server is a registry on this machine's loopback address, as the machines see it.
type server struct {
	addr    string
	fetched atomic.Int64 // bytes of bodies sent
	// intercept, where it is set, may answer a request itself.
	intercept func(http.ResponseWriter, *http.Request) bool
}

func startRegistry(t *testing.T) *server {
	t.Helper()
	s := &server{}
	inner := registry.New(registry.WithReferrersSupport(true), registry.Logger(discardLogger()))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{
		Listener: l,
		Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s.intercept != nil && s.intercept(w, r) {
				return
			}
			inner.ServeHTTP(&countingWriter{w, &s.fetched}, r)
		})},
	}
	srv.Start()
	t.Cleanup(srv.Close)
	s.addr = l.Addr().String()
	return s
}

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// imageIn returns the image in an OCI layout.
func imageIn(t *testing.T, oci string) v1.Image {
	t.Helper()
	index, err := layout.ImageIndexFromPath(oci)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// push puts an image from an OCI layout into the registry and returns it.
func (s *server) push(t *testing.T, oci, tag string) v1.Image {
	t.Helper()
	img := imageIn(t, oci)
	ref, err := name.ParseReference(s.addr+"/os:"+tag, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	s.fetched.Store(0)
	return img
}

// ref is the image's name in the machine.
func (s *server) ref(m *machine, tag string) string {
	m.t.Helper()
	return m.registry(s.addr) + "/os:" + tag
}

// registry returns the name that a registry on this machine's loopback address has in the machine, where it needs to
// be known as plain HTTP.
func (m *machine) registry(addr string) string {
	m.t.Helper()
	_, port, _ := net.SplitHostPort(addr)
	host := "10.0.2.2:" + port
	m.online()
	m.Check(
		fmt.Sprintf(
			"mkdir -p '/etc/containerd/certs.d/%[1]s' && printf '[host.\"http://%[1]s\"]\\n' > "+
				"'/etc/containerd/certs.d/%[1]s/hosts.toml'",
			host,
		),
	)
	return host
}

// everything has all tests run under both firmwares, for two hours; see `make test-all`. Otherwise some
// take one of them, or none.
var everything = os.Getenv("KAIROS_TEST_ALL") != "" || everyCut

// bothFirmwares runs a test under each firmware: where not everything is wanted, under those of the sample. All
// tests are parallel, two at a time on two cores.
func bothFirmwares(t *testing.T, do func(*testing.T, qemu.Firmware), sample ...qemu.Firmware) {
	for _, f := range []qemu.Firmware{qemu.UEFI, qemu.BIOS} {
		t.Run(string(f), func(t *testing.T) {
			if !everything && !slices.Contains(sample, f) {
				t.Skip("part of `make test-all`")
			}
			t.Parallel() // each machine waits now and then
			do(t, f)
		})
	}
}
