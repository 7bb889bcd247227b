package rollout

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

const oldRelease, newRelease = "aaaaaaaaaaaa", "bbbbbbbbbbbb"

// fleet is a cluster that does what a rollout says, at once, and forgets everything but its objects in between.
type fleet struct {
	t       *testing.T
	now     time.Time
	upgrade *v1alpha1.NodeOpUpgrade
	nodes   map[string]*Node
	helpers map[string]*Helper
	bad     map[string]bool // nodes on which the new release does not get healthy
	moved   map[string]bool // nodes for which the tag leads to another release
	busy    map[string]string
	held    map[string]string

	log  []string // transitions, as "node Step"
	most int      // nodes that were not available at a time
}

func newFleet(t *testing.T, n int) *fleet {
	f := &fleet{t: t, now: start, upgrade: upgradeTo("reg/os:v2"), nodes: map[string]*Node{},
		helpers: map[string]*Helper{}, bad: map[string]bool{}, moved: map[string]bool{}, busy: map[string]string{},
		held: map[string]string{}}
	for i := range n {
		f.add(fmt.Sprintf("n%d", i+1))
	}
	return f
}

func (f *fleet) add(name string) *Node {
	f.nodes[name] = &Node{Name: name, Labels: map[string]string{"name": name}, Ready: true, BootID: "boot-0"}
	f.boots(name, oldRelease, true)
	return f.nodes[name]
}

// boots has a node start with a release.
func (f *fleet) boots(name, release string, blessed bool) {
	n := f.nodes[name]
	var boot int
	fmt.Sscanf(n.BootID, "boot-%d", &boot)
	n.BootID = fmt.Sprintf("boot-%d", boot+1)
	n.Report = running(release, blessed)
	n.Report.BootID = n.BootID
}

// round asks once, and does what is said. It returns whether there was anything to do.
func (f *fleet) round() (Decision, bool) {
	f.t.Helper()
	in := Input{
		Now: f.now, Upgrade: f.upgrade,
		Busy:   func(n Node) string { return f.busy[n.Name] },
		Held:   func(n Node) string { return f.held[n.Name] },
		Helper: func(node, id string) *Helper { return f.helpers[node+id] },
	}
	for _, name := range slices.Sorted(maps.Keys(f.nodes)) {
		in.Nodes = append(in.Nodes, *f.nodes[name])
	}
	d, err := Decide(in)
	if err != nil {
		f.t.Fatal(err)
	}
	if again, err := Decide(in); err != nil || !reflect.DeepEqual(again, d) {
		f.t.Fatalf("the same objects, another decision: %s and %s, %v", d.Status.Message, again.Status.Message, err)
	}
	did := d.Status.Phase != f.upgrade.Status.Phase || d.Status.Progress != f.upgrade.Status.Progress
	f.upgrade.Status = d.Status
	for _, a := range d.Acts {
		f.do(a)
		if a.Drain {
			f.do(AfterDrain(f.now, f.upgrade, *f.nodes[a.Node], Drain{}))
		}
		did = true
	}
	unavailable := 0
	for _, n := range f.nodes {
		if !n.available() {
			unavailable++
		}
	}
	f.most = max(f.most, unavailable)
	return d, did
}

func (f *fleet) do(a Act) {
	n := f.nodes[a.Node]
	if a.Record != nil {
		if n.Record == nil || n.Record.Step != a.Record.Step {
			f.log = append(f.log, a.Node+" "+string(a.Record.Step))
		}
		n.Record = a.Record
	}
	if a.Cordon && !n.Cordoned {
		n.Cordoned, n.CordonedBy = true, Key(f.upgrade)
	}
	if a.Uncordon {
		n.Cordoned, n.CordonedBy = false, ""
	}
	if a.Helper == nil {
		return
	}
	release := newRelease
	if f.moved[a.Node] {
		release = "cccccccccccc"
	}
	f.helpers[a.Node+a.Helper.ID] = &Helper{Ended: true,
		Report: &v1alpha1.HelperReport{Release: release, Version: "v2", Changed: true, Digest: "sha256:1"}}
	switch {
	case a.Helper.Step != v1alpha1.StepRestarting:
	case a.Helper.Args[0] == "rollback":
		f.boots(a.Node, a.Helper.Args[1], true)
	case f.bad[a.Node]:
		f.boots(a.Node, oldRelease, true)
		n.Report.Failed = []v1alpha1.NodeRelease{{Release: release, Reason: "not healthy"}}
	default:
		f.boots(a.Node, release, true)
	}
}

// run asks until nothing is left to do, and time goes by.
func (f *fleet) run() {
	f.t.Helper()
	for range 1000 {
		if d, did := f.round(); !did {
			if d.Over || d.After == 0 || d.After > 8*24*time.Hour || f.waits() && d.After == pollBusy {
				return
			}
			f.now = f.now.Add(d.After)
		}
		f.now = f.now.Add(time.Second)
	}
	f.t.Fatalf("no end: %s\n%s", f.upgrade.Status.Message, strings.Join(f.log, "\n"))
}

// waits says whether other objects have nodes.
func (f *fleet) waits() bool { return len(f.busy)+len(f.held) > 0 }

func (f *fleet) want(phase, progress, message string) {
	f.t.Helper()
	s := f.upgrade.Status
	if s.Phase != phase || s.Progress != progress || !strings.Contains(s.Message, message) {
		f.t.Errorf("got  %s, %s, %q\nwant %s, %s, %q\n%s", s.Phase, s.Progress, s.Message, phase, progress, message,
			strings.Join(f.log, "\n"))
	}
}

// order returns the nodes in the order in which they came to a step.
func (f *fleet) order(step v1alpha1.Step) string {
	var names []string
	for _, l := range f.log {
		if name, s, _ := strings.Cut(l, " "); s == string(step) {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

func number(s string) *intstr.IntOrString { v := intstr.Parse(s); return &v }

func TestRolloutOfAll(t *testing.T) {
	f := newFleet(t, 3)
	f.nodes["n3"].ControlPlane = true
	f.upgrade.Spec.Concurrency = 1
	f.run()
	f.want(v1alpha1.PhaseCompleted, "3/3 blessed", "all nodes")
	if got := f.order(v1alpha1.StepStaging); got != "n3 n1 n2" {
		t.Errorf("order %s", got)
	}
	if f.most != 1 {
		t.Errorf("%d nodes were not available at a time", f.most)
	}
	s := f.upgrade.Status
	if s.Release != newRelease || s.Version != "v2" || s.NodeStatuses["n1"].Phase != v1alpha1.PhaseCompleted ||
		s.NodeStatuses["n1"].RebootStatus != v1alpha1.RebootCompleted || s.NodeStatuses["n1"].From != oldRelease {
		t.Errorf("%+v", s)
	}
	got := strings.Join(f.log[:6], ", ")
	if want := "n3 Staging, n3 Staged, n3 Cordoning, n3 Restarting, n3 Trial, n3 Blessed"; got != want {
		t.Errorf("got %s", got)
	}
	for name, n := range f.nodes {
		if n.Cordoned {
			t.Errorf("%s is cordoned", name)
		}
	}
	log := len(f.log)
	f.add("late")
	f.run()
	if len(f.log) != log {
		t.Errorf("a rollout that is over went on: %s", f.log[log:])
	}
}

// A failure stops where it has to, and the nodes that it has not come to never left what they ran.
func TestRolloutStops(t *testing.T) {
	yes, no := true, false
	for name, tc := range map[string]struct {
		spec     func(*v1alpha1.NodeOpUpgradeSpec)
		progress string
		message  string
		cordoned string
	}{
		"as the Kairos project: on": {func(s *v1alpha1.NodeOpUpgradeSpec) { s.Concurrency = 1 },
			"3/4 blessed, 1 fell back", "1 of 4", "n2"},
		"told to": {func(s *v1alpha1.NodeOpUpgradeSpec) { s.Concurrency = 1; s.StopOnFailure = &yes },
			"1/4 blessed, 1 fell back", "stopped: node n2 fell back: not healthy", "n2"},
		"waves": {func(s *v1alpha1.NodeOpUpgradeSpec) { s.Waves = []v1alpha1.Wave{{Nodes: number("2")}} },
			"1/4 blessed, 1 fell back", "stopped", "n2"},
		"waves, told not to": {func(s *v1alpha1.NodeOpUpgradeSpec) {
			s.Waves = []v1alpha1.Wave{{Nodes: number("2")}}
			s.StopOnFailure = &no
		}, "3/4 blessed, 1 fell back", "1 of 4", "n2"},
		"uncordoned": {func(s *v1alpha1.NodeOpUpgradeSpec) {
			s.Concurrency, s.StopOnFailure, s.UncordonOnFailure = 1, &yes, &yes
		}, "1/4 blessed, 1 fell back", "stopped", ""},
		"its wave goes back": {func(s *v1alpha1.NodeOpUpgradeSpec) {
			s.Waves = []v1alpha1.Wave{{Nodes: number("1")}, {Nodes: number("2")}}
			s.RollbackOnFailure = v1alpha1.RollbackWave
		}, "1/4 blessed, 1 fell back, 1 rolled back", "stopped", "n2"},
		"all go back": {func(s *v1alpha1.NodeOpUpgradeSpec) {
			s.Waves = []v1alpha1.Wave{{Nodes: number("1")}, {Nodes: number("2")}}
			s.RollbackOnFailure = v1alpha1.RollbackAll
		}, "0/4 blessed, 1 fell back, 2 rolled back", "stopped", "n2"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 4)
			f.bad["n2"] = true
			tc.spec(&f.upgrade.Spec)
			f.run()
			f.want(v1alpha1.PhaseFailed, tc.progress, tc.message)
			var cordoned []string
			for _, name := range slices.Sorted(maps.Keys(f.nodes)) {
				n := f.nodes[name]
				if n.Cordoned {
					cordoned = append(cordoned, name)
				}
				if n.Record == nil && n.booted() != oldRelease {
					t.Errorf("%s runs %s", name, n.booted())
				}
				if n.Record != nil && n.Record.Step == v1alpha1.StepRolledBack && n.booted() != oldRelease {
					t.Errorf("%s was rolled back and runs %s", name, n.booted())
				}
			}
			if got := strings.Join(cordoned, " "); got != tc.cordoned {
				t.Errorf("cordoned: %q, want %q", got, tc.cordoned)
			}
		})
	}
}

func TestWaves(t *testing.T) {
	f := newFleet(t, 10)
	f.upgrade.Spec.Waves = []v1alpha1.Wave{
		{NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"name": "n7"}}},
		{NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"name": "nobody"}}},
		{Nodes: number("25%")},
	}
	f.upgrade.Spec.PauseBetweenWaves = &metav1.Duration{Duration: time.Hour}
	f.run()
	f.want(v1alpha1.PhaseCompleted, "10/10 blessed", "")
	waves := map[int32]int{}
	for _, n := range f.nodes {
		waves[n.Record.Wave]++
	}
	if fmt.Sprint(waves) != "map[1:1 3:3 4:3 5:3]" || f.nodes["n7"].Record.Wave != 1 {
		t.Errorf("nodes of each wave: %v", waves)
	}
	if took := f.now.Sub(start); took < 3*time.Hour || took > 3*time.Hour+10*time.Minute {
		t.Errorf("it took %s", took)
	}
}

// No node is cordoned that would make more of them unavailable than are allowed, whoever made the others so.
func TestMaxUnavailable(t *testing.T) {
	f := newFleet(t, 10)
	f.nodes["n9"].Cordoned = true // by a person
	f.upgrade.Spec.MaxUnavailable = number("30%")
	f.run()
	f.want(v1alpha1.PhaseCompleted, "10/10 blessed", "")
	if f.most != 3 {
		t.Errorf("%d nodes were not available at a time", f.most)
	}
	if n := f.nodes["n9"]; !n.Cordoned || n.CordonedBy != "" {
		t.Error("a person's cordon is gone")
	}
}

func TestWindowHoldsCordon(t *testing.T) {
	f := newFleet(t, 2)
	f.upgrade.Spec.Windows = []v1alpha1.Window{{Start: "23:00", Duration: metav1.Duration{Duration: time.Hour}}}
	for range 5 {
		f.round()
	}
	if f.order(v1alpha1.StepStaged) != "n1 n2" || f.order(v1alpha1.StepCordoning) != "" {
		t.Errorf("before the window: %s", f.log)
	}
	f.want(v1alpha1.PhaseRunning, "0/2 blessed, 2 in work", "next window begins at 2026-03-02 23:00 UTC")
	f.run()
	f.want(v1alpha1.PhaseCompleted, "2/2 blessed", "")
	if h := f.now.Hour(); h != 23 {
		t.Errorf("it ended at %s", f.now)
	}
}

func TestPauseAndRollback(t *testing.T) {
	f := newFleet(t, 4)
	f.upgrade.Spec.Concurrency = 2
	for f.nodes["n1"].Record == nil || f.nodes["n1"].Record.Step != v1alpha1.StepCordoning &&
		f.nodes["n1"].Record.Step != v1alpha1.StepRestarting {
		f.round()
	}
	f.upgrade.Spec.Paused = true
	f.upgrade.Generation++
	f.run()
	f.want(v1alpha1.PhaseRunning, "2/4 blessed", "paused")
	f.upgrade.Spec.Paused = false
	f.upgrade.Generation++
	f.run()
	f.want(v1alpha1.PhaseCompleted, "4/4 blessed", "")
	f.upgrade.Spec.Rollback = true
	f.upgrade.Generation++
	f.run()
	f.want(v1alpha1.PhaseFailed, "0/4 blessed, 4 rolled back", "rolled back")
	for name, n := range f.nodes {
		if n.booted() != oldRelease || n.Cordoned {
			t.Errorf("%s: %s, cordoned %v", name, n.booted(), n.Cordoned)
		}
	}
}

// A tag that moves while a rollout runs changes nothing: the node that would get something else fails, and keeps its
// pods.
func TestPin(t *testing.T) {
	f := newFleet(t, 3)
	f.upgrade.Spec.Concurrency = 1
	f.moved["n2"] = true
	f.run()
	f.want(v1alpha1.PhaseFailed, "2/3 blessed, 1 failed", "")
	if n := f.nodes["n2"]; n.Cordoned || !strings.Contains(n.Record.Reason, "its tag was moved") {
		t.Errorf("%+v", n.Record)
	}
	f = newFleet(t, 2)
	f.upgrade.Spec.Concurrency, f.upgrade.Spec.Pin = 1, v1alpha1.PinDigest
	f.run()
	if got := f.nodes["n2"].Record.Image; got != "reg/os:v2@sha256:1" {
		t.Errorf("the second node fetched %s", got)
	}
}

// Nodes that are away hold up nobody, join when they come, and are waited for as the policy has it.
func TestAway(t *testing.T) {
	f := newFleet(t, 3)
	f.nodes["n1"].Ready = false
	f.run()
	f.want(v1alpha1.PhaseRunning, "2/3 blessed, 1 away", "waits for 1 nodes that are not Ready")
	f.add("n4")
	f.nodes["n1"].Ready = true
	f.run()
	f.want(v1alpha1.PhaseCompleted, "4/4 blessed", "")

	f = newFleet(t, 3)
	f.nodes["n1"].Ready = false
	f.upgrade.Spec.Away = v1alpha1.AwaySkip
	f.run()
	f.want(v1alpha1.PhaseCompleted, "2/3 blessed, 1 away", "1 are away")

	// A canary that is away or at work elsewhere is waited for; one that was deleted is not.
	f = newFleet(t, 3)
	f.upgrade.Spec.Waves = []v1alpha1.Wave{
		{NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"name": "n2"}}}, {},
	}
	f.busy["n2"] = "NodeOpUpgrade other"
	f.run()
	f.want(v1alpha1.PhasePending, "0/3 blessed", "waits for node n2, which NodeOpUpgrade other has")
	delete(f.nodes, "n2")
	f.run()
	f.want(v1alpha1.PhaseCompleted, "2/2 blessed", "")

	f = newFleet(t, 0)
	f.run()
	f.want(v1alpha1.PhasePending, "0/0 blessed", "no node has the labels")
}

// Another image in the same object is another rollout; what was on its way arrives first.
func TestNewTarget(t *testing.T) {
	f := newFleet(t, 2)
	for f.nodes["n1"].Record == nil || f.nodes["n1"].Record.Step != v1alpha1.StepRestarting {
		f.round()
	}
	f.upgrade.Spec.Image = "reg/os:v3"
	f.upgrade.Generation++
	f.run()
	f.want(v1alpha1.PhaseCompleted, "2/2 blessed", "")
	if got := f.nodes["n1"].Record.Image; got != "reg/os:v3" {
		t.Errorf("%s", got)
	}
	if n := f.nodes["n1"]; n.Cordoned {
		t.Error("n1 is cordoned")
	}
}

// A record that an operator wrote whose clock was ahead costs no more than a moment.
func TestClockSkew(t *testing.T) {
	f := newFleet(t, 1)
	for f.nodes["n1"].Record == nil || f.nodes["n1"].Record.Step != v1alpha1.StepTrial {
		f.round()
	}
	n := f.nodes["n1"]
	n.Report = nil // never comes back
	n.Record.Since = metav1.NewTime(f.now.Add(1000 * time.Hour))
	f.run()
	f.want(v1alpha1.PhaseFailed, "0/1 blessed, 1 failed", "1 of 1")
	if took := f.now.Sub(start); took > 2*time.Hour {
		t.Errorf("it took %s", took)
	}
}

// The object of a large fleet lists those nodes only that somebody has to look at.
func TestStatusIsBounded(t *testing.T) {
	f := newFleet(t, v1alpha1.MaxNodeStatuses+50)
	f.bad["n7"] = true
	f.run()
	f.want(v1alpha1.PhaseFailed, "249/250 blessed, 1 fell back", "")
	if s := f.upgrade.Status.NodeStatuses; len(s) != 1 || s["n7"].Step != v1alpha1.StepFellBack {
		t.Errorf("%d nodes listed", len(s))
	}
}

func TestBadSpec(t *testing.T) {
	for want, spec := range map[string]v1alpha1.NodeOpUpgradeSpec{
		"waves[0].nodes": {Waves: []v1alpha1.Wave{{Nodes: number("x")}}},
		"waves[0].nodeSelector": {Waves: []v1alpha1.Wave{{NodeSelector: &metav1.LabelSelector{
			MatchLabels: map[string]string{"-": "?"}}}}},
		"windows[0].timeZone": {Windows: []v1alpha1.Window{{Start: "01:00", TimeZone: "x"}}},
	} {
		u := upgradeTo("i")
		u.Spec = spec
		_, err := Decide(Input{Now: start, Upgrade: u, Nodes: []Node{{Name: "n", Ready: true}}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// A node that a NodeOp has is neither begun with nor cordoned, and the rollout looks again by itself: nothing of its
// own changes when the NodeOp is over.
func TestHeldByNodeOp(t *testing.T) {
	f := newFleet(t, 2)
	f.held["n1"] = "NodeOp default/op"
	f.run()
	if got := f.nodes["n1"].Record.Step; got != v1alpha1.StepStaged || f.nodes["n1"].Cordoned {
		t.Errorf("n1 is at %s", got)
	}
	f.want(v1alpha1.PhaseRunning, "1/2 blessed, 1 in work", "waits for node n1, which NodeOp default/op has")
	if d, _ := f.round(); d.After != pollBusy {
		t.Errorf("asked again after %s", d.After)
	}
	delete(f.held, "n1")
	f.run()
	f.want(v1alpha1.PhaseCompleted, "2/2 blessed", "")

	f = newFleet(t, 1)
	f.busy["n1"] = "NodeOp default/op"
	f.run()
	if d, _ := f.round(); d.After != pollBusy || f.nodes["n1"].Record != nil {
		t.Errorf("asked again after %s; %v", d.After, f.nodes["n1"].Record)
	}
}

// A rollout that has stopped is over, also where nodes have fetched the release and waited for their turn.
func TestStoppedWhileStaged(t *testing.T) {
	f := newFleet(t, 2)
	yes := true
	f.upgrade.Spec.StopOnFailure, f.upgrade.Spec.MaxUnavailable = &yes, number("1")
	f.bad["n1"] = true
	f.run()
	f.want(v1alpha1.PhaseFailed, "0/2 blessed, 1 fell back", "stopped: node n1 fell back")
	if n := f.nodes["n2"]; n.Cordoned || n.Record.Step != v1alpha1.StepStaged {
		t.Errorf("%+v", n.Record)
	}
}
