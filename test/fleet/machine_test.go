//go:build fleet

package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/fleet/agent"
	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// releases are what a registry has.
var releases = map[string]string{
	"registry.example/os:v1": "aaaaaaaaaaaa", "registry.example/os:v2": "bbbbbbbbbbbb",
	"registry.example/os:v3": "cccccccccccc",
}

const v1, v2, v3 = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"

// machine is a node: what is on its disk, and what runs there.
type machine struct {
	name  string
	skew  time.Duration // of its clock
	takes time.Duration // each pod
	file  string        // of kairos-status.service; "": the machine writes its Node itself, without an agent

	mu       sync.Mutex
	pod      *corev1.Pod // the agent's
	boot     int
	runs     string // release
	passive  string
	recovery string
	failed   string // release, which has fallen back
	bad      string // release that is not healthy here
	blessed  bool
	answers  map[types.UID]corev1.PodStatus
	did      []string // what its disk or boot got, in order
	stop     func()   // stops the agent
}

// add makes a node with an agent, that belongs to the test's fleet. It is gone when the test ends.
func (k *kubelets) add(t *testing.T, name string) *machine {
	t.Helper()
	m := &machine{
		name: name, takes: 200 * time.Millisecond, boot: 1, runs: v1, blessed: true,
		answers: map[types.UID]corev1.PodStatus{},
		file:    filepath.Join(t.TempDir(), "status.json"),
	}
	must(t, m.join(k.ctx, fleetOf(t)))
	m.pod = agentPod(t, name)
	must(t, cluster.admin.Create(k.ctx, m.pod))
	k.mu.Lock()
	k.machines[name] = m
	k.mu.Unlock()
	m.mu.Lock()
	must(t, m.begin(k.ctx))
	m.mu.Unlock()
	t.Cleanup(func() {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		must(t, client.IgnoreNotFound(cluster.admin.Delete(k.ctx, n)))
		k.leave(m)
	})
	eventually(t, time.Minute, name+" reports", func() (bool, string) {
		n := node(t, name)
		return n.Labels[v1alpha1.LabelRelease] == v1, fmt.Sprint(n.Labels)
	})
	return m
}

// leave is a machine that is switched off for good.
func (k *kubelets) leave(m *machine) {
	k.mu.Lock()
	delete(k.machines, m.name)
	k.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
}

// agentPod is a pod as the DaemonSet makes it.
func agentPod(t *testing.T, node string) *corev1.Pod {
	t.Helper()
	set, err := cluster.clients.AppsV1().DaemonSets(system).Get(t.Context(), "kairos-agent", metav1.GetOptions{})
	must(t, err)
	p := &corev1.Pod{ObjectMeta: *set.Spec.Template.ObjectMeta.DeepCopy(), Spec: *set.Spec.Template.Spec.DeepCopy()}
	p.Namespace, p.Name, p.Spec.NodeName = system, "kairos-agent-"+node, node
	p.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "apps/v1", Kind: "DaemonSet", Name: set.Name, UID: set.UID, Controller: new(true),
	}}
	return p
}

// fleetOf names the nodes of a test.
func fleetOf(t *testing.T) string {
	return strings.ToLower(strings.NewReplacer("Test", "", "/", "-").Replace(t.Name()))
}

// join makes the Node.
func (m *machine) join(ctx context.Context, fleet string) error {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.name, Labels: map[string]string{"fleet": fleet}}}
	if err := cluster.admin.Create(ctx, n); err != nil {
		return err
	}
	return m.node(ctx, corev1.ConditionTrue)
}

func (m *machine) bootID() string { return fmt.Sprintf("%s-boot-%d", m.name, m.boot) }

// node writes what a kubelet writes of itself.
func (m *machine) node(ctx context.Context, ready corev1.ConditionStatus) error {
	now := metav1.NewTime(time.Now().Add(m.skew))
	return m.patch(ctx, map[string]any{"status": map[string]any{
		"nodeInfo": map[string]any{"bootID": m.bootID()},
		"conditions": []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: ready, LastHeartbeatTime: now, LastTransitionTime: now,
		}},
	}}, "status")
}

func (m *machine) patch(ctx context.Context, patch any, sub ...string) error {
	b, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = cluster.clients.CoreV1().Nodes().Patch(ctx, m.name, types.StrategicMergePatchType, b,
		metav1.PatchOptions{FieldManager: "kubelet"}, sub...)
	return err
}

// begin starts what a boot starts: kairos-status.timer, and the agent with its pod's token.
func (m *machine) begin(ctx context.Context) error {
	if err := m.report(ctx); err != nil || m.file == "" {
		return err
	}
	config, err := account(ctx, "kairos-agent", m.pod)
	if err != nil {
		return err
	}
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	a := agent.Agent{Nodes: clients.CoreV1().Nodes(), Node: m.name, StatusFile: m.file, BootID: m.bootID(),
		Log: slog.New(slog.DiscardHandler)}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	m.stop = func() {
		stop()
		<-done
	}
	return nil
}

// report writes what `kairos-apply status -o json` says.
func (m *machine) report(ctx context.Context) error {
	slot := func(release string, blessed bool) *api.Slot {
		if release == "" {
			return nil
		}
		return &api.Slot{Release: release, Version: "v-" + release[:1], Blessed: blessed}
	}
	if m.file == "" {
		at := &v1alpha1.NodeRelease{Release: m.runs, Blessed: m.blessed}
		r := v1alpha1.NodeReport{Schema: v1alpha1.ReportSchema, BootID: m.bootID(), Mode: api.ModeInstalled,
			Booted: at, Active: at}
		return m.patch(ctx, map[string]any{"metadata": map[string]any{"annotations": map[string]string{
			v1alpha1.AnnotationReport: r.String()}}})
	}
	s := api.Status{
		Schema: api.Schema, Mode: api.ModeInstalled, Firmware: "uefi", Booted: slot(m.runs, m.blessed),
		Active: slot(m.runs, m.blessed), Passive: slot(m.passive, true), Recovery: slot(m.recovery, true),
	}
	if m.failed != "" {
		f := slot(m.failed, false)
		f.Failure = &api.Failure{Reason: "check kubelet failed: the node is not Ready"}
		s.Failed = []api.Slot{*f}
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(m.file+".next", b, 0o600), os.Rename(m.file+".next", m.file))
}

// run does what a helper pod does on its machine, once, and returns what becomes of the pod.
func (m *machine) run(ctx context.Context, p *corev1.Pod) (corev1.PodStatus, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.answers[p.UID]; ok {
		return s, nil
	}
	time.Sleep(m.takes)
	c := p.Spec.Containers[0]
	var r v1alpha1.HelperReport
	release := ""
	switch {
	case len(c.Args) > 2 && c.Args[0] == "helper" && c.Args[1] == "--":
		r, release = m.apply(c.Args[2:])
	case len(c.Args) == 2 && c.Args[0] == "restart" && c.Args[1] == m.bootID():
		release = m.runs
	case len(c.Args) == 2 && c.Args[0] == "restart":
		r.Reason = "the node has restarted already"
	default:
		m.did = append(m.did, strings.Join(c.Command, " "))
		if c.Command[0] == "fail" {
			r.Exit = 1
		}
	}
	now := metav1.NewTime(time.Now().Add(m.skew))
	ended := &corev1.ContainerStateTerminated{
		ExitCode: int32(r.Exit), Message: r.String(), StartedAt: now, FinishedAt: now,
	}
	s := corev1.PodStatus{Phase: corev1.PodSucceeded, ContainerStatuses: []corev1.ContainerStatus{
		{Name: c.Name, Image: c.Image, State: corev1.ContainerState{Terminated: ended}},
	}}
	if r.Exit != 0 {
		s.Phase = corev1.PodFailed
	}
	if len(c.Args) == 0 {
		ended.Message = strings.Repeat("no such device", r.Exit)
	}
	if release != "" {
		s = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "NodeShutdown"} // the restart ends it
	}
	m.answers[p.UID] = s
	if release == "" {
		return s, nil
	}
	return s, m.restart(ctx, release)
}

// apply is kairos-apply. restart is the release that the machine restarts into, if it does.
func (m *machine) apply(args []string) (r v1alpha1.HelperReport, restart string) {
	has := func(flag string) bool { return slices.Contains(args, flag) }
	if args[0] == "rollback" {
		return r, args[1]
	}
	release, ok := releases[args[1]]
	at := slices.Index(args, "--release")
	switch {
	case !ok:
		return v1alpha1.HelperReport{Exit: int(api.ExitFailed), Reason: args[1] + ": not found"}, ""
	case at > 0 && args[at+1] != release:
		return v1alpha1.HelperReport{Exit: int(api.ExitRefused), Reason: args[1] + " is another release"}, ""
	case release == m.failed && has("--unless-failed"):
		return v1alpha1.HelperReport{Exit: int(api.ExitFellBack), Release: release, Reason: "it has failed here"}, ""
	}
	r = v1alpha1.HelperReport{Release: release, Version: "v-" + release[:1], Changed: release != m.runs}
	switch {
	case has("--recovery"):
		m.recovery = release
		m.did = append(m.did, "recovery "+release[:1])
	case has("--reboot") && release != m.runs:
		return r, release
	}
	return r, ""
}

// restart starts the machine into a release, which is blessed, or falls back.
func (m *machine) restart(ctx context.Context, into string) error {
	before := m.runs
	steps := func() error {
		m.did = append(m.did, "restart "+into[:1])
		if err := m.power(ctx, into, into == before); err != nil || into == before {
			return err
		}
		if into != m.bad {
			m.passive, m.failed, m.blessed = before, "", true
			return m.again(ctx, m.report)
		}
		m.did = append(m.did, "falls back to "+before[:1])
		m.failed = into
		return m.power(ctx, before, true)
	}
	return steps()
}

// power is a restart of the hardware.
func (m *machine) power(ctx context.Context, release string, blessed bool) error {
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
	down := func(ctx context.Context) error { return m.node(ctx, corev1.ConditionUnknown) }
	if err := m.again(ctx, down); err != nil {
		return err
	}
	m.boot++
	m.runs, m.blessed = release, blessed
	up := func(ctx context.Context) error { return m.node(ctx, corev1.ConditionTrue) }
	return errors.Join(m.again(ctx, up), m.again(ctx, m.begin))
}

// again repeats what an API server that is away has not taken. A Node that is gone is left alone.
func (m *machine) again(ctx context.Context, do func(context.Context) error) error {
	for {
		err := do(ctx)
		if client.IgnoreNotFound(err) == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// history is what has happened to a machine's disk and boot.
func (m *machine) history() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.did, ", ")
}
