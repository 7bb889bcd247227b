package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

const examples = "../examples/"

// plan is what the definition of upgrade.cattle.io/v1 Plan has, of system-upgrade-controller 0.16.
type plan struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Concurrency           int64                         `json:"concurrency"`
		JobActiveDeadlineSecs *int64                        `json:"jobActiveDeadlineSecs"`
		NodeSelector          *metav1.LabelSelector         `json:"nodeSelector"`
		ServiceAccountName    string                        `json:"serviceAccountName"`
		Channel               string                        `json:"channel"`
		Version               string                        `json:"version"`
		Tolerations           []corev1.Toleration           `json:"tolerations"`
		Exclusive             bool                          `json:"exclusive"`
		Cordon                bool                          `json:"cordon"`
		ImagePullSecrets      []corev1.LocalObjectReference `json:"imagePullSecrets"`
		PostCompleteDelay     *metav1.Duration              `json:"postCompleteDelay"`
		PriorityClassName     string                        `json:"priorityClassName"`
		Prepare               *planContainer                `json:"prepare"`
		Upgrade               *planContainer                `json:"upgrade"`
		Drain                 *struct {
			Timeout                  *intstr.IntOrString   `json:"timeout"`
			GracePeriod              *int32                `json:"gracePeriod"`
			DeleteEmptydirData       *bool                 `json:"deleteEmptydirData"`
			IgnoreDaemonSets         *bool                 `json:"ignoreDaemonSets"`
			Force                    bool                  `json:"force"`
			DisableEviction          bool                  `json:"disableEviction"`
			SkipWaitForDeleteTimeout int                   `json:"skipWaitForDeleteTimeout"`
			PodSelector              *metav1.LabelSelector `json:"podSelector"`
		} `json:"drain"`
	} `json:"spec"`
}

type planContainer struct {
	Image           string                  `json:"image"`
	Command         []string                `json:"command"`
	Args            []string                `json:"args"`
	Env             []corev1.EnvVar         `json:"envs"`
	EnvFrom         []corev1.EnvFromSource  `json:"envFrom"`
	SecurityContext *corev1.SecurityContext `json:"securityContext"`
}

// The example for system-upgrade-controller has fields of its definition only, and what that cannot do without.
func TestPlan(t *testing.T) {
	var p plan
	if err := yaml.UnmarshalStrict(read(t, examples+"k3s/upgrade-plan.yaml"), &p); err != nil {
		t.Fatal(err)
	}
	s := p.Spec
	if p.APIVersion != "upgrade.cattle.io/v1" || p.Kind != "Plan" || s.Upgrade == nil || s.Upgrade.Image == "" ||
		s.Version == "" && s.Channel == "" || s.Concurrency < 1 || s.Drain == nil || s.ServiceAccountName == "" {
		t.Errorf("%+v", p)
	}
	if _, err := metav1.LabelSelectorAsSelector(s.NodeSelector); err != nil {
		t.Error(err)
	}
	if script := strings.Join(s.Upgrade.Args, " "); !strings.Contains(script, "--unless-failed") ||
		exec.Command("sh", "-n", "-c", script).Run() != nil {
		t.Errorf("it is no shell text, or tries a release that has failed at each start of the pod: %s", script)
	}
}

// The example for kured is a patch of its DaemonSet, with flags that it has.
func TestKured(t *testing.T) {
	known := []string{"reboot-sentinel", "period", "start-time", "end-time", "time-zone", "drain-timeout",
		"lock-release-delay", "reboot-days", "concurrency", "blocking-pod-selector", "reboot-sentinel-command"}
	for _, o := range decode(t, read(t, examples+"kubernetes/kured/window.yaml")) {
		d, ok := o.(*apps.DaemonSet)
		if !ok || d.Name != "kured" || d.Namespace != "kube-system" || len(d.Spec.Template.Spec.Containers) != 1 {
			t.Fatalf("%+v", o)
		}
		c := d.Spec.Template.Spec.Containers[0]
		if c.Name != "kured" || c.Command[0] != "/usr/bin/kured" {
			t.Errorf("%+v", c)
		}
		for _, arg := range c.Command[1:] {
			name, _, ok := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
			if !ok || !slices.Contains(known, name) {
				t.Errorf("kured has no %s", arg)
			}
		}
	}
}

// The images of the examples take files that are there.
func TestExamplesCopyWhatIsThere(t *testing.T) {
	contexts := map[string]string{"kubelet": "", "fleet": "node"} // by its user; a folder here
	for _, name := range []string{"kubernetes", "upgrade-timer"} {
		copies := 0
		for line := range strings.Lines(string(read(t, examples+name+"/Dockerfile"))) {
			words := strings.Fields(line)
			if len(words) < 3 || words[0] != "COPY" {
				continue
			}
			copies++
			dir := examples + name
			for strings.HasPrefix(words[1], "--") {
				if from, ok := strings.CutPrefix(words[1], "--from="); ok {
					dir, ok = contexts[from]
					if !ok {
						t.Errorf("%s: README.md names no folder %s", name, from)
					}
				}
				words = words[1:]
			}
			files, err := filepath.Glob(filepath.Join(dir, words[1]))
			if dir != "" && (err != nil || len(files) == 0) {
				t.Errorf("%s: there is no %s", name, words[1])
			}
		}
		if copies == 0 {
			t.Errorf("%s: nothing is copied", name)
		}
	}
}

// The node asks for its restart where another release boots next than runs, and not otherwise.
func TestKuredIsAsked(t *testing.T) {
	conf := string(read(t, examples+"kubernetes/kured/kairos-upgrade.conf"))
	_, line, _ := strings.Cut(conf, "ExecStartPost=/bin/sh -ec ")
	line, _, _ = strings.Cut(line, "\n")
	script, err := strconv.Unquote(line)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	dir := t.TempDir()
	script = strings.ReplaceAll(strings.ReplaceAll(script, "$$", "$"), "/run/", dir+"/")
	for _, active := range []string{"aaaaaaaaaaaa", "bbbbbbbbbbbb"} {
		apply := "#!/bin/sh\n[ \"$3\" = booted.release ] && echo aaaaaaaaaaaa || echo " + active + "\n"
		if err := os.WriteFile(filepath.Join(dir, "kairos-apply"), []byte(apply), 0o755); err != nil {
			t.Fatal(err)
		}
		c := exec.Command("/bin/sh", "-ec", script)
		c.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		_, err := os.Stat(filepath.Join(dir, "reboot-required"))
		if asked := err == nil; asked != (active != "aaaaaaaaaaaa") {
			t.Errorf("active is %s: kured is asked: %v", active, asked)
		}
	}
}

// The example of a rollout is what an API server takes, and means something.
func TestRolloutExample(t *testing.T) {
	for _, o := range decode(t, read(t, examples+"kubernetes/rollout.yaml")) {
		u, ok := o.(*v1alpha1.NodeOpUpgrade)
		if !ok || u.Namespace != "kairos-system" || len(u.Spec.Waves) == 0 {
			t.Fatalf("%+v", o)
		}
		in := rollout.Input{Upgrade: u}
		if _, err := rollout.Decide(in); err != nil {
			t.Error(err)
		}
	}
}

// The cloud-config has no errors, and its token is in a kubeconfig that the kubelet's unit names.
func TestNodeJoins(t *testing.T) {
	const name = examples + "kubernetes/cloud-config.yaml"
	if err := config.Merge(config.Parse(name, read(t, name))).Report().Err(); err != nil {
		t.Error(err)
	}
	type file struct{ Path, Permissions, Content string }
	var c struct {
		Files []file `json:"write_files"`
	}
	if err := yaml.Unmarshal(read(t, name), &c); err != nil {
		t.Fatal(err)
	}
	unit := string(read(t, examples+"kubernetes/rootfs/etc/systemd/system/kubelet.service"))
	found := 0
	for _, f := range c.Files {
		if !strings.HasSuffix(f.Path, ".kubeconfig") {
			continue
		}
		found++
		k, err := clientcmd.Load([]byte(f.Content))
		if err != nil {
			t.Fatal(err)
		}
		user := k.AuthInfos[k.Contexts[k.CurrentContext].AuthInfo]
		ca := k.Clusters[k.Contexts[k.CurrentContext].Cluster].CertificateAuthority
		if user.Token == "" || f.Permissions != "0600" || !strings.Contains(unit, "--bootstrap-kubeconfig="+f.Path) {
			t.Errorf("%+v, %s", user, f.Permissions)
		}
		if !slices.ContainsFunc(c.Files, func(f file) bool { return f.Path == ca }) {
			t.Errorf("nothing writes %s", ca)
		}
	}
	if found != 1 {
		t.Errorf("%d kubeconfigs", found)
	}
	// The kubelet reads what is there, by containerd's socket, and as containerd runs its pods.
	var kubelet struct{ Kind, CgroupDriver, ContainerRuntimeEndpoint string }
	if err := yaml.Unmarshal(read(t, examples+"kubernetes/rootfs/etc/kubernetes/kubelet.yaml"), &kubelet); err != nil {
		t.Fatal(err)
	}
	containerd := string(read(t, examples+"kubernetes/rootfs/etc/containerd/config.toml"))
	if kubelet.Kind != "KubeletConfiguration" || kubelet.CgroupDriver != "systemd" ||
		!strings.Contains(containerd, "SystemdCgroup = true") ||
		kubelet.ContainerRuntimeEndpoint != "unix:///run/containerd/containerd.sock" {
		t.Errorf("%+v", kubelet)
	}
	if !strings.Contains(containerd, `config_path = "/etc/containerd/certs.d"`) {
		t.Error("pods' images do not come from where releases do")
	}
	// systemd-networkd would take pods' interfaces, which are ether too, out of their bridge.
	network := string(read(t, examples+"debian/rootfs/etc/systemd/network/80-dhcp.network"))
	if !strings.Contains(network, "\nType=ether\nKind=!*\n") {
		t.Errorf("it is for other interfaces than network cards:\n%s", network)
	}
}

func TestSystemdAcceptsTheExamples(t *testing.T) {
	dir := t.TempDir()
	args := []string{"verify", "--man=no", "--recursive-errors=no"}
	for _, name := range []string{
		"upgrade-timer/kairos-upgrade.service", "upgrade-timer/kairos-upgrade.timer",
		"kubernetes/rootfs/etc/systemd/system/kubelet.service",
	} {
		// The programs and units of others are an image's, not this machine's.
		s := strings.NewReplacer("/usr/bin/kairos-apply", "/bin/true", "/usr/bin/kubelet", "/bin/true",
			"Requires=containerd.service\n", "").Replace(string(read(t, examples+name)))
		p := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(p, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, p)
	}
	if out, err := exec.Command("systemd-analyze", args...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze (package systemd): %v\n%s", err, out)
	}
	if err := os.MkdirAll(filepath.Join(dir, "kairos-upgrade.service.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	conf := strings.ReplaceAll(string(read(t, examples+"kubernetes/kured/kairos-upgrade.conf")),
		"/usr/bin/kairos-apply", "/bin/true")
	err := os.WriteFile(filepath.Join(dir, "kairos-upgrade.service.d", "kured.conf"), []byte(conf), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", args[:4]...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("with kured: %v\n%s", err, out)
	}
}

// Over ssh a machine is asked until it tells what has become of the release, and the first bad answer is the last.
func TestOverSSH(t *testing.T) {
	const blessed = `0 {"outcome":"blessed"}`
	for name, tc := range map[string]struct {
		a, b string // what ssh prints and ends with, one answer a line
		want int
		asks string
	}{
		"blessed": {"255\n0 {\"changed\":true}\n255\n" + blessed, blessed, 0, "aaaab"},
		"fell":    {"255\n10 {\"outcome\":\"fell back\"}", "", 10, "aa"},
		"refused": {"6", "", 6, "a"},
		"later":   {blessed, "255\n6", 6, "abb"},
	} {
		dir := t.TempDir()
		ssh := `#!/bin/sh
host=${3#root@}
printf %s "$host" >>asks
line=$(head -n 1 "$host")
sed -i 1d "$host"
echo "${line#* }"
exit "${line%% *}"
`
		for file, text := range map[string]string{"ssh": ssh, "a": tc.a + "\n", "b": tc.b + "\n"} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		script, err := filepath.Abs(examples + "upgrade-timer/over-ssh")
		if err != nil {
			t.Fatal(err)
		}
		c := exec.CommandContext(t.Context(), script, "image", "a", "b")
		c.Dir, c.Env = dir, []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "PAUSE=0"}
		out, _ := c.CombinedOutput()
		if got := c.ProcessState.ExitCode(); got != tc.want || string(read(t, filepath.Join(dir, "asks"))) != tc.asks {
			t.Errorf("%s: exit code %d, asked %s\n%s", name, got, read(t, filepath.Join(dir, "asks")), out)
		}
	}
}
