package operator

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/nodeop"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

func (c *cluster) createOp(name string, change func(*v1alpha1.NodeOp)) {
	c.t.Helper()
	op := &v1alpha1.NodeOp{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name),
			CreationTimestamp: metav1.NewTime(c.now)},
		Spec: v1alpha1.NodeOpSpec{Command: []string{"sh", "-c", "echo hello"}},
	}
	if change != nil {
		change(op)
	}
	c.must(c.api.Create(c.t.Context(), op))
}

func (c *cluster) getOp(name string) *v1alpha1.NodeOp {
	c.t.Helper()
	op := &v1alpha1.NodeOp{}
	c.must(c.api.Get(c.t.Context(), client.ObjectKey{Namespace: "default", Name: name}, op))
	return op
}

func (c *cluster) wantOp(name, phase, progress string) {
	c.t.Helper()
	s := c.getOp(name).Status
	if s.Phase != phase || s.Progress != progress {
		c.t.Errorf("%s: %s, %s: %s; want %s, %s", name, s.Phase, s.Progress, s.Message, phase, progress)
	}
}

func request(name string) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "default", Name: name}}
}

// runOps has operators at work until these NodeOps are over, or for so many rounds.
func (c *cluster) runOps(names ...string) {
	c.t.Helper()
	c.work(names, func(q reconcile.Request) error {
		_, err := c.ops.Reconcile(c.t.Context(), q)
		return err
	}, func(name string) bool { return nodeop.Over(c.getOp(name)) }, c.kubelets)
}

// kubelets run what NodeOps have made: preflights, Jobs, and the pods that restart nodes.
func (c *cluster) kubelets() {
	c.t.Helper()
	var jobs batchv1.JobList
	c.must(c.api.List(c.t.Context(), &jobs))
	for i := range jobs.Items {
		j := &jobs.Items[i]
		node := j.Spec.Template.Spec.NodeName
		if len(j.Status.Conditions) > 0 || c.hung[node] {
			continue
		}
		kind := batchv1.JobComplete
		if c.bad[node] {
			kind = batchv1.JobFailed
		}
		now := metav1.NewTime(c.now)
		j.Status.Conditions = []batchv1.JobCondition{{Type: kind, Status: corev1.ConditionTrue, Message: "too often"}}
		j.Status.CompletionTime = &now
		c.ran[j.Labels[v1alpha1.LabelNodeOp]+" "+node]++
		c.must(c.api.Status().Update(c.t.Context(), j))
	}
	var pods corev1.PodList
	c.must(c.api.List(c.t.Context(), &pods))
	for i := range pods.Items {
		p := &pods.Items[i]
		switch {
		case p.Status.Phase != "":
			continue
		case p.Labels[v1alpha1.LabelPreflight] == "true":
			p.Status.Phase = corev1.PodSucceeded
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: preflightContainer}}
			p.Status.ContainerStatuses[0].State.Terminated = &corev1.ContainerStateTerminated{
				Message: c.skip[p.Spec.NodeName],
			}
		case p.Labels[v1alpha1.LabelReboot] == "true":
			c.reboot(p)
		default:
			continue
		}
		c.must(c.api.Status().Update(c.t.Context(), p))
	}
}

// reboot is what a pod does that restarts its node: nothing where that is another boot already.
func (c *cluster) reboot(p *corev1.Pod) {
	c.t.Helper()
	c.check(p)
	args := p.Spec.Containers[0].Args
	if len(args) != 2 || args[0] != "restart" {
		c.t.Errorf("a pod that restarts a node: %q", args)
	}
	p.Status.Phase = corev1.PodFailed
	var n corev1.Node
	c.must(c.api.Get(c.t.Context(), client.ObjectKey{Name: p.Spec.NodeName}, &n))
	if n.Status.NodeInfo.BootID == args[1] {
		c.boot(n.Name, oldRelease, "")
	}
}

func everything(op *v1alpha1.NodeOp) {
	yes := true
	s := &op.Spec
	s.Cordon, s.RebootOnSuccess, s.Concurrency = &yes, &yes, 1
	s.DrainOptions = &v1alpha1.DrainOptions{Enabled: &yes}
	s.Preflight = &v1alpha1.PreflightSpec{Command: []string{"test", "-e", "/host/etc/done"}}
}

func (c *cluster) boots() string {
	c.t.Helper()
	var list corev1.NodeList
	c.must(c.api.List(c.t.Context(), &list))
	var out []string
	for _, n := range list.Items {
		out = append(out, fmt.Sprintf("%s %d", n.Name, len(n.Status.NodeInfo.BootID)))
	}
	return strings.Join(out, ", ")
}

func TestNodeOp(t *testing.T) {
	c := newCluster(t, 3)
	c.held, c.skip = 3, map[string]string{"n2": "already done"}
	c.createOp("op", everything)
	c.runOps("op")
	c.wantOp("op", v1alpha1.PhaseCompleted, "3/3 done, 1 skipped")
	if got := c.nodes() + "; " + c.boots(); got != "n1 a, n2 a, n3 a; n1 2, n2 1, n3 2" {
		t.Error(got)
	}
	writes := c.writes
	c.runOps("op") // which removes what is left
	var pods corev1.PodList
	var jobs batchv1.JobList
	c.must(errors.Join(c.api.List(t.Context(), &pods), c.api.List(t.Context(), &jobs)))
	if len(pods.Items) > 0 || len(jobs.Items) != 2 {
		t.Errorf("%d pods and %d Jobs are left", len(pods.Items), len(jobs.Items))
	}
	if name := c.getOp("op").Status.NodeStatuses["n1"].JobName; name != jobs.Items[0].Name {
		t.Errorf("status names Job %q, which is %q", name, jobs.Items[0].Name)
	}
	if per := float64(writes) / 3; per > 20 {
		t.Errorf("%.1f writes for each node", per)
	} else {
		t.Logf("%.1f writes for each node, status included", per)
	}
	writes = c.writes
	c.runOps("op")
	if c.writes != writes {
		t.Errorf("a NodeOp that is over takes %d writes", c.writes-writes)
	}
}

// What users of the Kairos project's operator see of a Job, and what its pod has of the node.
func TestJob(t *testing.T) {
	c := newCluster(t, 1)
	tries := int32(2)
	op := &v1alpha1.NodeOp{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "op.x", UID: "u"}}
	op.Spec = v1alpha1.NodeOpSpec{Command: []string{"a"}, HostMountPath: "/mnt", BackoffLimit: &tries,
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "s"}}, Preflight: &v1alpha1.PreflightSpec{
			Command: []string{"b"}, Image: "p",
		}}
	n := rollout.Node{Name: strings.Repeat("node.", 40) + "n", Op: &v1alpha1.NodeRecord{Rollout: rollout.Key(op)}}
	j := c.ops.jobFor(op, n)
	s := j.Spec.Template.Spec
	k := s.Containers[0]
	if len(j.Name) > 63 || strings.Contains(j.Name, ".") || !strings.HasPrefix(j.Name, "op-x-node-") ||
		len(j.Labels[v1alpha1.LabelNode]) > 63 || *j.Spec.BackoffLimit != 2 || s.NodeName != n.Name ||
		s.RestartPolicy != corev1.RestartPolicyNever || s.ImagePullSecrets[0].Name != "s" ||
		k.Image != "busybox:latest" || k.Command[0] != "a" || !*k.SecurityContext.Privileged ||
		k.Env[0] != (corev1.EnvVar{Name: "HOST_DIR", Value: "/mnt"}) || k.VolumeMounts[0].MountPath != "/mnt" ||
		k.VolumeMounts[0].ReadOnly || s.Volumes[0].HostPath.Path != "/" || !metav1.IsControlledBy(j, op) {
		t.Errorf("%+v", j)
	}
	if got := opOfPod(t.Context(), &corev1.Pod{ObjectMeta: j.Spec.Template.ObjectMeta}); len(got) != 1 ||
		got[0].Name != "op.x" {
		t.Errorf("its pod belongs to %v", got)
	}
	if _, ok := j.Spec.Template.Labels[v1alpha1.LabelStep]; !ok {
		t.Error("its pod has no label by which the cache keeps it")
	}
	op.Spec.BackoffLimit, c.ops.OpImage = nil, "default"
	p := c.ops.preflightPod(op, n)
	k = p.Spec.Containers[0]
	if k.Image != "p" || k.SecurityContext != nil || !k.VolumeMounts[0].ReadOnly ||
		p.Labels["kairos.io/preflight"] == "" || *p.Spec.ActiveDeadlineSeconds != 120 ||
		k.TerminationMessagePolicy != corev1.TerminationMessageReadFile {
		t.Errorf("%+v", p)
	}
	op.Spec.Preflight.Image = ""
	if image := c.ops.preflightPod(op, n).Spec.Containers[0].Image; image != "default" {
		t.Errorf("image %s", image)
	}
	if tries := *c.ops.jobFor(op, n).Spec.BackoffLimit; tries != 6 {
		t.Errorf("backoffLimit %d", tries)
	}
}

// What a NodeOp learns of Jobs and preflights.
func TestJobAndPreflightAreRead(t *testing.T) {
	ended := func(name, message string) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{Name: name, State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: message}}}}
	}
	pull := []corev1.ContainerStatus{{Name: opContainer, State: corev1.ContainerState{
		Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "no such image"}}}}
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j"}}
	got := jobOf(j, []*corev1.Pod{{Status: corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: pull}}})
	if *got != (nodeop.Job{Name: "j", Waiting: "ErrImagePull: no such image"}) {
		t.Errorf("%+v", got)
	}
	j.Status.Conditions = []batchv1.JobCondition{
		{Type: batchv1.JobComplete, Status: corev1.ConditionFalse},
		{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Message: "backoffLimit"},
	}
	got = jobOf(j, []*corev1.Pod{{Status: corev1.PodStatus{ContainerStatuses: ended(opContainer, "no room\n")}}})
	if got.Failed != "backoffLimit: no room" || got.Complete {
		t.Errorf("%+v", got)
	}
	for name, tc := range map[string]struct {
		status corev1.PodStatus
		want   nodeop.Preflight
	}{
		"go": {corev1.PodStatus{Phase: corev1.PodSucceeded, ContainerStatuses: ended(preflightContainer, "\n")},
			nodeop.Preflight{Ended: true}},
		"skip": {corev1.PodStatus{Phase: corev1.PodSucceeded, ContainerStatuses: ended(preflightContainer, "done")},
			nodeop.Preflight{Ended: true, Skip: "done"}},
		"failed": {corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: ended(preflightContainer, "")},
			nodeop.Preflight{Ended: true, Failed: "Error"}},
		"late": {corev1.PodStatus{Phase: corev1.PodFailed, Reason: "DeadlineExceeded"},
			nodeop.Preflight{Ended: true, Failed: "DeadlineExceeded"}},
		"lost": {corev1.PodStatus{Phase: corev1.PodFailed},
			nodeop.Preflight{Ended: true, Failed: "its pod failed"}},
		"running": {corev1.PodStatus{Phase: corev1.PodRunning}, nodeop.Preflight{}},
	} {
		if got := preflightOf(&corev1.Pod{Status: tc.status}); *got != tc.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// As TestInterruptedAtEachWrite, and no command runs twice, and no node restarts twice.
func TestNodeOpInterruptedAtEachWrite(t *testing.T) {
	type outcome struct{ nodes, boots, ran, phase, progress string }
	run := func(c *cluster) outcome {
		c.bad["n2"], c.skip = true, map[string]string{"n1": ""}
		c.createOp("op", everything)
		c.runOps("op")
		s := c.getOp("op").Status
		return outcome{c.nodes(), c.boots(), fmt.Sprint(c.ran), s.Phase, s.Progress}
	}
	whole := newCluster(t, 2)
	want := outcome{"n1 a, n2 a cordoned", "n1 2, n2 1", "map[op n1:1 op n2:1]", v1alpha1.PhaseFailed,
		"1/2 done, 1 failed"}
	if got := run(whole); got != want || whole.writes < 10 {
		t.Fatalf("got %+v after %d writes", got, whole.writes)
	}
	away := apierrors.NewServiceUnavailable("away")
	conflict := apierrors.NewConflict(schema.GroupResource{Resource: "nodes"}, "n1", errors.New("changed"))
	faults := []struct {
		name          string
		before, after error
	}{
		{"killed before", errKilled, nil}, {"conflict", conflict, nil}, {"answer lost", nil, away},
		{"killed after", nil, errKilled},
	}
	for at := 1; at <= whole.writes; at++ {
		once := func(err error) func(int) error {
			return func(n int) error {
				if n == at {
					return err
				}
				return nil
			}
		}
		// One with each write, in turn: all with each take a minute.
		fault, c := faults[at%len(faults)], newCluster(t, 2)
		c.before, c.after = once(fault.before), once(fault.after)
		if got := run(c); got != want {
			t.Errorf("write %d, %s: got %+v, want %+v", at, fault.name, got, want)
		}
	}
	t.Logf("%d writes, each interrupted", whole.writes)
}

// A rollout and a NodeOp that choose the same node wait for each other, whichever of them has it first.
func TestNodeOpAndRollout(t *testing.T) {
	for _, first := range []string{"rollout", "NodeOp"} {
		c := newCluster(t, 2)
		c.create("os", func(u *v1alpha1.NodeOpUpgrade) { u.Spec.Concurrency = 1 })
		c.createOp("op", everything)
		both := func() {
			steps := []func() error{
				func() error { _, err := c.r.Reconcile(t.Context(), request("os")); return err },
				func() error { _, err := c.ops.Reconcile(t.Context(), request("op")); return err },
			}
			if first == "NodeOp" {
				steps[0], steps[1] = steps[1], steps[0]
			}
			for _, do := range steps {
				c.must(do())
				c.notBoth()
			}
		}
		both()
		both()
		u, op := c.get("os").Status, c.getOp("op").Status
		switch {
		case first == "rollout" && op.NodeStatuses["n1"].Step != "",
			first == "NodeOp" && u.NodeStatuses["n1"].Step != "":
			t.Errorf("%s first: both have n1", first)
		}
		for range 100 {
			both()
			c.agents()
			c.kubelets()
			c.now = c.now.Add(time.Second)
		}
		c.want("os", v1alpha1.PhaseCompleted, "2/2 blessed")
		c.wantOp("op", v1alpha1.PhaseCompleted, "2/2 done")
		if got := c.nodes(); strings.Contains(got, "cordoned") {
			t.Error(got)
		}
	}
}

// notBoth asserts that no node is in work for a rollout and for a NodeOp.
func (c *cluster) notBoth() {
	c.t.Helper()
	var list corev1.NodeList
	c.must(c.api.List(c.t.Context(), &list))
	for i := range list.Items {
		n := rollout.NodeOf(&list.Items[i])
		if n.Record != nil && n.Op != nil && !n.Op.Step.Ended() && !n.Record.Step.Ended() &&
			n.Record.Step != v1alpha1.StepStaged {
			c.t.Fatalf("node %s: the rollout is at %s, the NodeOp at %s", n.Name, n.Record.Step, n.Op.Step)
		}
	}
}

// What was decided from a Node that has changed since is not written.
func TestWriteOnlyWhatWasRead(t *testing.T) {
	c := newCluster(t, 1)
	c.createOp("op", nil)
	var n corev1.Node
	c.must(c.api.Get(t.Context(), client.ObjectKey{Name: "n1"}, &n))
	read := rollout.NodeOf(&n)
	n.Annotations[v1alpha1.AnnotationRecord] = v1alpha1.NodeRecord{Step: v1alpha1.StepStaging}.String()
	c.must(c.api.Update(t.Context(), &n))
	a := rollout.Act{Node: "n1", Record: &v1alpha1.NodeRecord{Step: v1alpha1.StepStarting}}
	if err := c.ops.write(t.Context(), c.getOp("op"), read, a, false); !apierrors.IsConflict(err) {
		t.Errorf("got %v", err)
	}
}

// Two NodeOps: each runs once on each node, though each puts its record over the other's.
func TestTwoNodeOps(t *testing.T) {
	c := newCluster(t, 2)
	c.createOp("a", everything)
	c.createOp("b", nil)
	c.runOps("a", "b")
	c.wantOp("a", v1alpha1.PhaseCompleted, "2/2 done")
	c.wantOp("b", v1alpha1.PhaseCompleted, "2/2 done")
	got := fmt.Sprint(c.ran) + " " + c.boots()
	if got != "map[a n1:1 a n2:1 b n1:1 b n2:1] n1 2, n2 2" {
		t.Error(got)
	}
}

// A NodeOp has a node until its status says how it has ended: its record is all that knows, before.
func TestNotedNodeIsFree(t *testing.T) {
	c := newCluster(t, 1)
	c.createOp("a", nil)
	c.createOp("b", nil)
	a := c.getOp("a")
	n := rollout.Node{Name: "n1", Op: &v1alpha1.NodeRecord{Rollout: rollout.Key(a), Step: v1alpha1.StepCompleted}}
	ask := func() string {
		busy, err := c.ops.busy(t.Context(), c.getOp("b"))
		c.must(err)
		return busy(n)
	}
	if got := ask(); got != "NodeOp default/a" {
		t.Errorf("its end is not noted: %q has it", got)
	}
	a.Status.Phase = v1alpha1.PhaseRunning
	a.Status.NodeStatuses = map[string]v1alpha1.NodeStatus{"n1": {Phase: v1alpha1.PhaseCompleted}}
	c.must(c.api.Status().Update(t.Context(), a))
	if got := ask(); got != "" {
		t.Errorf("its end is noted: %q has it", got)
	}
	n.Op.Step = v1alpha1.StepRunning
	if got := ask(); got != "NodeOp default/a" {
		t.Errorf("it runs: %q has it", got)
	}
	n.Op.Rollout = "default/gone@1"
	if got := ask(); got != "" {
		t.Errorf("a NodeOp that is gone: %q has it", got)
	}
}

// A NodeOp that is deleted leaves no cordon of its own and no record, and nobody waits for it. A node that loses its
// label while it is in work is finished.
func TestNodeOpDeleted(t *testing.T) {
	c := newCluster(t, 2)
	label := func(value string) {
		var n corev1.Node
		c.must(c.api.Get(t.Context(), client.ObjectKey{Name: "n1"}, &n))
		n.Labels = map[string]string{"role": value}
		c.must(c.api.Update(t.Context(), &n))
	}
	label("db")
	c.hung["n1"] = true
	c.createOp("op", func(op *v1alpha1.NodeOp) {
		everything(op)
		op.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"role": "db"}}
	})
	for c.getOp("op").Status.NodeStatuses["n1"].Step != v1alpha1.StepRunning {
		_, err := c.ops.Reconcile(t.Context(), request("op"))
		c.must(err)
		c.kubelets()
	}
	label("web")
	_, err := c.ops.Reconcile(t.Context(), request("op"))
	c.must(err)
	c.wantOp("op", v1alpha1.PhaseRunning, "0/1 done, 1 in work")
	if got := c.nodes(); got != "n1 a cordoned, n2 a" {
		t.Error(got)
	}
	c.must(c.api.Delete(t.Context(), c.getOp("op")))
	_, err = c.ops.Reconcile(t.Context(), request("op"))
	c.must(err)
	if got := c.nodes(); got != "n1 a, n2 a" {
		t.Error(got)
	}
	var n corev1.Node
	c.must(c.api.Get(t.Context(), client.ObjectKey{Name: "n1"}, &n))
	if _, ok := n.Annotations[v1alpha1.AnnotationOp]; ok {
		t.Error("its record is still there")
	}
	if err := c.api.Get(t.Context(), request("op").NamespacedName, &v1alpha1.NodeOp{}); !apierrors.IsNotFound(err) {
		t.Errorf("it is still there: %v", err)
	}
}

// A Job that somebody has deleted stays away; one that the cache does not have yet is not taken for that.
func TestJobIsGone(t *testing.T) {
	c := newCluster(t, 1)
	c.hung["n1"] = true
	c.createOp("op", nil)
	for c.getOp("op").Status.NodeStatuses["n1"].Step != v1alpha1.StepRunning {
		_, err := c.ops.Reconcile(t.Context(), request("op"))
		c.must(err)
	}
	op := c.getOp("op")
	var n corev1.Node
	c.must(c.api.Get(t.Context(), client.ObjectKey{Name: "n1"}, &n))
	stale := &have{jobs: map[string]*batchv1.Job{}}
	c.must(c.ops.lookAgain(t.Context(), op, rollout.NodeOf(&n), stale))
	if stale.job("n1") == nil {
		t.Error("a Job that is not in the cache is taken for gone")
	}
	c.must(c.api.DeleteAllOf(t.Context(), &batchv1.Job{}, client.InNamespace("default")))
	c.runOps("op")
	c.wantOp("op", v1alpha1.PhaseFailed, "0/1 done, 1 failed")
	s := c.getOp("op").Status.NodeStatuses["n1"]
	if !strings.Contains(s.Message, "its Job is gone") || len(c.ran) > 0 {
		t.Errorf("%+v, ran %v", s, c.ran)
	}
}
