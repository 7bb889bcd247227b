//go:build vm && fleet

package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	klayout "github.com/kairos-buildkit/kairos/layout"
)

// Paths from this folder.
const (
	kairosBin     = "../../build/bin/kairos"
	baseLayout    = "../../build/base/debian-trixie"
	operatorImage = "../../build/images/operator"
	kubernetesDir = "../../build/tools/kubernetes-v1.37.2"
	workDir       = "../../build/test/cluster"
	stateDir      = "../../build/test/state"
	logDir        = "../../build/vmlogs"
	exampleDir    = "../../examples/kubernetes"
)

const epoch = "1772323200"

func TestMain(m *testing.M) {
	files := []string{kairosBin, baseLayout + "/index.json", operatorImage + "/index.json"}
	for _, p := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"} {
		files = append(files, filepath.Join(kubernetesDir, p))
	}
	vmtest.Main(m, workDir, func() error { return os.MkdirAll(logDir, 0o777) }, files...)
}

// made says that a run before has left a file that this one is to use.
func made(path string) bool {
	_, err := os.Stat(path)
	return vmtest.Reuse && err == nil
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=", "DOCKER_CONFIG=/nonexistent", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// build builds a folder as an image, and returns its OCI layout.
func build(t *testing.T, name, dir string, args ...string) string {
	t.Helper()
	dest := filepath.Join(workDir, name+".oci")
	if !made(filepath.Join(dest, "index.json")) {
		must(t, os.RemoveAll(dest))
		run(t, kairosBin, append([]string{"build", "--progress", "plain", "--root", stateDir,
			"--build-arg", "SOURCE_DATE_EPOCH=" + epoch, "--label", klayout.ImageLabelVersion + "=" + name,
			"--output", "type=oci,tar=false,rewrite-timestamp=true,dest=" + dest, dir}, args...)...)
	}
	return dest
}

// commandLine gives an image's machines a root shell, and its releases some seconds to be blessed.
func commandLine(seconds int) string {
	return fmt.Sprintf("%s panic=2 %s=%d", vmtest.RootShellCmdline, klayout.CmdlineDeadline, seconds)
}

// nodeImage builds examples/kubernetes as its README.md says, with what a cluster's network add-on brings.
func nodeImage(t *testing.T) string {
	t.Helper()
	debian := build(t, "debian", "../../examples/debian", "--build-context", "debian:trixie=oci-layout://"+baseLayout)
	// The kubelet alone is in the context: the folder has the control plane, too.
	kubelet := filepath.Join(workDir, "kubelet")
	if !made(kubelet) {
		must(t, os.MkdirAll(kubelet, 0o755))
		run(t, "cp", filepath.Join(kubernetesDir, "kubelet"), kubelet)
	}
	node := build(t, "node", exampleDir, "--build-context", "os=oci-layout://"+debian, "--build-context",
		"kubelet="+kubelet, "--build-context", "fleet=../../deploy/node")
	return derived(t, node, "v1", `
RUN --mount=type=tmpfs,target=/var/lib/apt/lists --mount=type=tmpfs,target=/var/cache/apt \
    --mount=type=tmpfs,target=/var/log apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends containernetworking-plugins && \
    mkdir -p /opt/cni && ln -s /usr/lib/cni /opt/cni/bin
LABEL `+fmt.Sprintf("%s=%q", klayout.ImageLabelCmdline, commandLine(900)))
}

// derived builds an image on top of another one.
func derived(t *testing.T, base, name, instructions string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM base\n"+instructions+"\n"), 0o644))
	return build(t, name, dir, "--build-context", "base=oci-layout://"+base)
}

// ports are where machines know the host's servers.
type ports struct{ api, registry int }

// choosePorts returns ports that are free, or those that the machines of a run before know.
func choosePorts(t *testing.T) (p ports) {
	t.Helper()
	file := filepath.Join(workDir, "ports")
	if b, err := os.ReadFile(file); err == nil && made(file) {
		_, err := fmt.Sscan(string(b), &p.api, &p.registry)
		must(t, err)
		return p
	}
	p = ports{freePort(t), freePort(t)}
	must(t, os.WriteFile(file, fmt.Appendln(nil, p.api, p.registry), 0o644))
	return p
}

// server is a registry on loopback.
type server struct{ port int }

func startRegistry(t *testing.T, port int) server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	must(t, err)
	s := &httptest.Server{Listener: l,
		Config: &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}}
	s.Start()
	t.Cleanup(s.Close)
	return server{port}
}

// push puts an image into the registry and returns its name on a machine.
func (s server) push(t *testing.T, img v1.Image, repository string) string {
	t.Helper()
	ref, err := name.ParseReference(fmt.Sprintf("127.0.0.1:%d/%s", s.port, repository), name.Insecure)
	must(t, err)
	must(t, remote.Write(ref, img))
	return fmt.Sprintf("%s:%d/%s", hostAddress, s.port, repository)
}

// imageIn returns the image of this architecture in an OCI layout.
func imageIn(t *testing.T, oci string) v1.Image {
	t.Helper()
	index, err := layout.ImageIndexFromPath(oci)
	must(t, err)
	img, err := first(index)
	must(t, err)
	return img
}

func first(index v1.ImageIndex) (v1.Image, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	d := m.Manifests[0]
	if !d.MediaType.IsIndex() {
		return index.Image(d.Digest)
	}
	if index, err = index.ImageIndex(d.Digest); err != nil {
		return nil, err
	}
	return first(index)
}

// pauseImage is an image with a program that waits.
func pauseImage(t *testing.T) v1.Image {
	t.Helper()
	program := filepath.Join(t.TempDir(), "pause")
	run(t, "go", "build", "-ldflags", "-s -w", "-o", program, "./testdata/pause")
	b, err := os.ReadFile(program)
	must(t, err)
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	must(t, w.WriteHeader(&tar.Header{Name: "pause", Mode: 0o755, Size: int64(len(b)), Format: tar.FormatPAX}))
	_, err = w.Write(b)
	must(t, err)
	must(t, w.Close())
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	must(t, err)
	img, err := mutate.AppendLayers(empty.Image, l)
	must(t, err)
	c, err := img.ConfigFile()
	must(t, err)
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Config.Entrypoint = "linux", "amd64", []string{"/pause"}
	img, err = mutate.ConfigFile(img, c)
	must(t, err)
	return img
}

// The bootstrap token that machines join by.
const tokenID, tokenSecret = "abcdef", "0123456789abcdef"

// installed makes a disk with the system installed, as an installation leaves it, which has not been started yet: each
// copy of it is another machine, that joins the cluster.
func installed(t *testing.T, oci string, p ports, files authority) qemu.Drive {
	t.Helper()
	d := qemu.Drive{Path: filepath.Join(workDir, "node.qcow2"), Format: "qcow2"}
	if made(d.Path) {
		return d
	}
	config := filepath.Join(workDir, "config.yaml")
	must(t, os.WriteFile(config, []byte(cloudConfig(t, p, files)), 0o600))
	run(t, kairosBin, "config", "check", config)
	run(t, kairosBin, "export", "-o", "type=qcow2,dest="+d.Path, "--cloud-config", config, "oci-layout:"+oci)
	return d
}

// machine starts another machine with the system installed.
func machine(t *testing.T, disk qemu.Drive) *vmtest.VM {
	t.Helper()
	disk = vmtest.Overlay(t, disk)
	run(t, "qemu-img", "resize", "-q", disk.Path, strconv.FormatInt(diskSize, 10))
	return vmtest.Start(t, qemu.Machine{Memory: 2048, Drives: []qemu.Drive{disk}})
}

const diskSize = 8 << 30 // in bytes

// cloudConfig is that of examples/kubernetes with the cluster's names, and what belongs to this cluster's network.
func cloudConfig(t *testing.T, p ports, files authority) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(exampleDir, "cloud-config.yaml"))
	must(t, err)
	ca, err := os.ReadFile(files.cert)
	must(t, err)
	const indent = "\n      "
	config := string(b)
	for old, text := range map[string]string{
		"install: {auto: true, device: auto, reboot: true}\n": "", // it is installed
		"-----BEGIN CERTIFICATE-----" + indent + "the cluster's: /etc/kubernetes/pki/ca.crt of a control plane" +
			indent + "-----END CERTIFICATE-----": strings.ReplaceAll(strings.TrimSpace(string(ca)), "\n", indent),
		"control-plane.example:6443": hostAddress + ":" + strconv.Itoa(p.api),
		"abcdef.0123456789abcdef":    tokenID + "." + tokenSecret,
	} {
		if strings.Count(config, old) != 1 {
			t.Fatalf("cloud-config.yaml has %q %d times", old, strings.Count(config, old))
		}
		config = strings.Replace(config, old, text, 1)
	}
	config = strings.Replace(config, "    ssh_authorized_keys: [ssh-ed25519 AAAA...]\n", "", 1)
	reg := hostAddress + ":" + strconv.Itoa(p.registry)
	for _, host := range []string{reg, "registry.k8s.io"} {
		config += file("/etc/containerd/certs.d/"+host+"/hosts.toml",
			"[host.\"http://"+reg+"\"]")
	}
	config += file("/etc/cni/net.d/10-bridge.conflist", `{"cniVersion": "1.0.0", "name": "pods", "plugins": [`+
		`{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipam": {"type": "host-local", `+
		`"ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`)
	// What kube-proxy does.
	service := fmt.Sprintf("-d %s -p tcp --dport 443 -j DNAT --to-destination %s:%d",
		serviceAddress, hostAddress, p.api)
	return config + "stages:\n  boot:\n    - commands:\n      - iptables -t nat -A PREROUTING " + service +
		"\n      - iptables -t nat -A OUTPUT " + service + "\n"
}

func file(path, content string) string {
	return "  - path: " + path + "\n    permissions: \"0644\"\n    content: |\n      " +
		strings.ReplaceAll(content, "\n", "\n      ") + "\n"
}
