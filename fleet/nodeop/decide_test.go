package nodeop

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

// fleet is a cluster that does what a NodeOp says, at once, and forgets everything but its objects in between.
type fleet struct {
	t          *testing.T
	now        time.Time
	op         *v1alpha1.NodeOp
	nodes      map[string]*rollout.Node
	preflights map[string]*Preflight
	jobs       map[string]*Job
	bad        map[string]bool   // nodes on which the command fails
	skip       map[string]string // what the preflight says
	stuck      map[string]bool   // nodes that do not restart
	busy       map[string]string

	log  []string // transitions, as "node Step"
	ran  map[string]int
	most int // nodes in work at a time
}

func newFleet(t *testing.T, n int, change func(*v1alpha1.NodeOpSpec)) *fleet {
	f := &fleet{t: t, now: start, op: &v1alpha1.NodeOp{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: "op", UID: "1", Generation: 3,
	}}, nodes: map[string]*rollout.Node{}, preflights: map[string]*Preflight{}, jobs: map[string]*Job{},
		bad: map[string]bool{}, skip: map[string]string{}, stuck: map[string]bool{}, busy: map[string]string{},
		ran: map[string]int{}}
	for i := range n {
		name := fmt.Sprintf("n%d", i+1)
		f.nodes[name] = &rollout.Node{Name: name, Ready: true, BootID: "a"}
	}
	if change != nil {
		change(&f.op.Spec)
	}
	return f
}

func (f *fleet) input() Input {
	in := Input{
		Now: f.now, Op: f.op,
		Busy:      func(n rollout.Node) string { return f.busy[n.Name] },
		Preflight: func(node string) *Preflight { return f.preflights[node] },
		Job:       func(node string) *Job { return f.jobs[node] },
		Helper:    func(string, string) *rollout.Helper { return nil },
	}
	for _, name := range slices.Sorted(maps.Keys(f.nodes)) {
		in.Nodes = append(in.Nodes, *f.nodes[name])
	}
	return in
}

// round asks once, and does what is said. It returns whether there was anything to do.
func (f *fleet) round() (d Decision, did bool) {
	f.t.Helper()
	in := f.input()
	d = Decide(in)
	if again := Decide(in); !reflect.DeepEqual(again, d) {
		f.t.Fatalf("the same objects, another decision: %s and %s", d.Status.Message, again.Status.Message)
	}
	did = !reflect.DeepEqual(d.Status, f.op.Status)
	f.op.Status = d.Status
	for _, a := range d.Acts {
		if a.Helper != nil && f.stuck[a.Node] {
			continue
		}
		f.do(a)
		if n := f.nodes[a.Node]; a.Drain && n.Cordoned {
			f.do(AfterDrain(f.now, f.op, *n, rollout.Drain{}))
		}
		did = true
	}
	working := 0
	for _, n := range f.nodes {
		if n.Op != nil && !n.Op.Step.Ended() {
			working++
		}
	}
	f.most = max(f.most, working)
	return d, did
}

func (f *fleet) do(a Act) {
	n := f.nodes[a.Node]
	if a.RemoveJob {
		delete(f.jobs, a.Node)
	}
	if a.Record != nil {
		if n.Op == nil || n.Op.Step != a.Record.Step {
			f.log = append(f.log, a.Node+" "+string(a.Record.Step))
		}
		n.Op = a.Record
	}
	if a.Forget {
		n.Op = nil
	}
	if a.Cordon && !n.Cordoned {
		n.Cordoned, n.CordonedBy = true, rollout.Key(f.op)
	}
	if a.Uncordon {
		n.Cordoned, n.CordonedBy = false, ""
	}
	if a.Preflight {
		f.preflights[a.Node] = &Preflight{Ended: true, Skip: f.skip[a.Node]}
	}
	if a.Job && f.jobs[a.Node] == nil {
		f.ran[a.Node]++
		f.jobs[a.Node] = &Job{Name: "job-" + a.Node, Complete: !f.bad[a.Node]}
		if f.bad[a.Node] {
			f.jobs[a.Node].Failed = "no room"
		}
	}
	if a.Helper != nil && a.Helper.Reboot == n.BootID {
		n.BootID += "b"
	}
}

// run asks until nothing is left to do, and time goes by.
func (f *fleet) run() {
	f.t.Helper()
	for range 200 {
		if d, did := f.round(); !did {
			if d.Over || d.After == 0 || len(f.busy) > 0 {
				return
			}
			f.now = f.now.Add(d.After)
		}
		f.now = f.now.Add(time.Second)
	}
	f.t.Fatalf("no end: %s\n%s", f.op.Status.Message, strings.Join(f.log, "\n"))
}

func (f *fleet) want(phase, progress, message string) {
	f.t.Helper()
	s := f.op.Status
	if s.Phase != phase || s.Progress != progress || !strings.Contains(s.Message, message) {
		f.t.Errorf("got  %s, %s, %q\nwant %s, %s, %q\n%s", s.Phase, s.Progress, s.Message, phase, progress, message,
			strings.Join(f.log, "\n"))
	}
	c := s.Nodes
	if sum := c.Waiting + c.Away + c.Working + c.Completed + c.Skipped + c.Failed; sum != c.Total {
		f.t.Errorf("%+v: the sum is %d", c, sum)
	}
}

func everything(s *v1alpha1.NodeOpSpec) {
	yes := true
	s.Cordon, s.RebootOnSuccess = &yes, &yes
	s.DrainOptions = &v1alpha1.DrainOptions{Enabled: &yes}
	s.Preflight = &v1alpha1.PreflightSpec{Command: []string{"true"}}
	s.Concurrency = 1
}

func TestOneAfterTheOther(t *testing.T) {
	f := newFleet(t, 3, everything)
	f.nodes["n3"].ControlPlane = true
	f.skip["n2"] = "already done"
	f.run()
	f.want(v1alpha1.PhaseCompleted, "3/3 done, 1 skipped", "all nodes are done")
	want := "n3 Preflight, n3 Cordoning, n3 Starting, n3 Running, n3 Restarting, n3 Completed, n1 Preflight"
	if got := strings.Join(f.log[:7], ", "); got != want || f.most != 1 {
		t.Errorf("got %s, %d at a time", got, f.most)
	}
	for name, want := range map[string]v1alpha1.NodeStatus{
		"n1": {Phase: v1alpha1.PhaseCompleted, Step: v1alpha1.StepCompleted, JobName: "job-n1", BootID: "a",
			RebootStatus: v1alpha1.RebootCompleted},
		"n2": {Phase: v1alpha1.PhaseCompleted, Step: v1alpha1.StepSkipped,
			Message: "skipped by preflight: already done", RebootStatus: v1alpha1.RebootNotRequested},
	} {
		got := f.op.Status.NodeStatuses[name]
		got.LastUpdated = metav1.Time{}
		if got != want {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	if f.nodes["n1"].Cordoned || f.ran["n1"] != 1 || f.ran["n2"] != 0 || f.nodes["n2"].BootID != "a" {
		t.Errorf("%+v, ran %v", f.nodes["n1"], f.ran)
	}
	f.nodes["late"] = &rollout.Node{Name: "late", Ready: true}
	log := len(f.log)
	f.run()
	if len(f.log) != log {
		t.Errorf("a NodeOp that is over went on: %s", f.log[log:])
	}
}

func TestFailures(t *testing.T) {
	yes := true
	t.Run("goes on", func(t *testing.T) {
		f := newFleet(t, 3, func(s *v1alpha1.NodeOpSpec) { s.Cordon, s.RebootOnSuccess = &yes, &yes })
		f.bad["n2"] = true
		f.run()
		f.want(v1alpha1.PhaseFailed, "2/3 done, 1 failed", "1 of 3 nodes failed")
		s := f.op.Status.NodeStatuses["n2"]
		if s.RebootStatus != v1alpha1.RebootCancelled || s.Message != "its Job failed: no room" ||
			!f.nodes["n2"].Cordoned || f.nodes["n1"].Cordoned || f.nodes["n2"].BootID != "a" {
			t.Errorf("%+v, %+v", s, f.nodes["n2"])
		}
	})
	t.Run("stops", func(t *testing.T) {
		f := newFleet(t, 3, func(s *v1alpha1.NodeOpSpec) {
			everything(s)
			s.StopOnFailure, s.UncordonOnFailure = &yes, &yes
		})
		f.bad["n1"] = true
		f.run()
		f.want(v1alpha1.PhaseFailed, "0/3 done, 1 failed", "stopped: node n1 failed: its Job failed: no room")
		if f.nodes["n1"].Cordoned || f.nodes["n2"].Op != nil {
			t.Errorf("%+v, %+v", f.nodes["n1"], f.nodes["n2"])
		}
	})
	// A node whose preflight is under way when another one fails has not begun, and is not cordoned.
	t.Run("stops a preflight", func(t *testing.T) {
		f := newFleet(t, 2, func(s *v1alpha1.NodeOpSpec) {
			everything(s)
			s.StopOnFailure, s.Concurrency = &yes, 2
		})
		f.round()
		f.round()
		f.preflights["n2"] = &Preflight{}
		f.preflights["n1"] = &Preflight{Ended: true, Failed: "no"}
		f.round()
		f.preflights["n2"] = &Preflight{Ended: true}
		f.run()
		f.want(v1alpha1.PhaseFailed, "0/2 done, 1 failed", "stopped: node n1 failed: preflight failed: no")
		if n := f.nodes["n2"]; n.Op != nil || n.Cordoned {
			t.Errorf("%+v", n)
		}
	})
	t.Run("no restart", func(t *testing.T) {
		f := newFleet(t, 1, everything)
		f.stuck["n1"] = true
		f.run()
		f.want(v1alpha1.PhaseFailed, "0/1 done, 1 failed", "")
		s := f.op.Status.NodeStatuses["n1"]
		if s.Message != "the node did not restart within 1h0m0s" || s.RebootStatus != v1alpha1.RebootPending {
			t.Errorf("%+v", s)
		}
	})
}

// Nodes that are not Ready hold up nobody; the NodeOp is not over without them.
func TestAway(t *testing.T) {
	f := newFleet(t, 2, func(s *v1alpha1.NodeOpSpec) { s.Concurrency = 1 })
	f.nodes["n1"].Ready = false
	f.run()
	f.want(v1alpha1.PhaseRunning, "1/2 done, 1 away", "waits for 1 nodes that are not Ready")
	f.nodes["n1"].Ready = true
	f.run()
	f.want(v1alpha1.PhaseCompleted, "2/2 done", "")

	f = newFleet(t, 0, nil)
	f.run()
	f.want(v1alpha1.PhasePending, "0/0 done", "no node has the labels")
}

// A node that another object has is waited for, and looked at again. What a NodeOp has noted in its status it knows
// when another one has put its own record over it.
func TestOthers(t *testing.T) {
	f := newFleet(t, 2, nil)
	f.busy["n1"] = "NodeOpUpgrade default/os"
	f.run()
	f.want(v1alpha1.PhaseRunning, "1/2 done", "waits for node n1, which NodeOpUpgrade default/os has")
	if d, _ := f.round(); d.After != pollBusy {
		t.Errorf("asked again after %s", d.After)
	}
	if !Noted(f.op, "n2") || Noted(f.op, "n1") {
		t.Errorf("%+v", f.op.Status.NodeStatuses)
	}
	f.nodes["n2"].Op = &v1alpha1.NodeRecord{Rollout: "default/another@2", Step: v1alpha1.StepRunning}
	delete(f.busy, "n1")
	f.run()
	f.want(v1alpha1.PhaseCompleted, "2/2 done", "")
	if f.ran["n2"] != 1 {
		t.Errorf("n2 ran %d times", f.ran["n2"])
	}
}

// A clock that was ahead makes no step longer than it is, and none is taken twice.
func TestClockSkew(t *testing.T) {
	f := newFleet(t, 1, everything)
	f.stuck["n1"] = true
	for range 7 {
		f.round()
	}
	if f.nodes["n1"].Op.Step != v1alpha1.StepRestarting {
		t.Fatalf("%+v", f.nodes["n1"].Op)
	}
	f.now = f.now.Add(-48 * time.Hour)
	begin := f.now
	f.run()
	if took := f.now.Sub(begin); took > 2*RestartTimeout {
		t.Errorf("it took %s", took)
	}
	f.want(v1alpha1.PhaseFailed, "0/1 done, 1 failed", "")
}

func TestStatusIsBounded(t *testing.T) {
	f := newFleet(t, 3*v1alpha1.MaxNodeStatuses, nil)
	for i := range 5 {
		f.bad[fmt.Sprintf("n%d", i+1)] = true
	}
	f.run()
	f.want(v1alpha1.PhaseFailed, "595/600 done, 5 failed", "")
	if n := len(f.op.Status.NodeStatuses); n != 5 {
		t.Errorf("%d nodes in the status", n)
	}
}
