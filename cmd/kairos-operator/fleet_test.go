package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/fleet/console"
	"github.com/kairos-buildkit/kairos/fleet/operator"
	"github.com/kairos-buildkit/kairos/fleet/rollout"
)

// people is a cluster, and who types commands there.
type people struct {
	t             *testing.T
	api           client.Client
	width         int
	reads         int
	beforeRead    func(n int) error // of a NodeOpUpgrade
	out, progress bytes.Buffer
}

func newPeople(t *testing.T) *people {
	t.Helper()
	s, err := operator.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	p := &people{t: t}
	b := fake.NewClientBuilder().WithScheme(s).WithStatusSubresource(&v1alpha1.NodeOpUpgrade{})
	for i := range 3 {
		report := v1alpha1.NodeReport{Schema: v1alpha1.ReportSchema, Role: "active",
			Booted: &v1alpha1.NodeRelease{Release: "aaaaaaaaaaaa", Version: "v1", Blessed: true}}
		b.WithObjects(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i+1),
			Annotations: map[string]string{v1alpha1.AnnotationReport: report.String()}}})
	}
	p.api = interceptor.NewClient(b.Build(), interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch,
		key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
		if _, ok := o.(*v1alpha1.NodeOpUpgrade); ok && p.beforeRead != nil {
			p.reads++
			before := p.beforeRead
			p.beforeRead = nil // what it does reads, too
			err := before(p.reads)
			p.beforeRead = before
			if err != nil {
				return err
			}
		}
		return c.Get(ctx, key, o, opts...)
	}})
	return p
}

// types runs a command, and returns its exit code and what is printed.
func (p *people) types(line string) (int, string) {
	p.t.Helper()
	p.out.Reset()
	p.progress.Reset()
	f := newFleet()
	f.out, f.progress, f.every = &p.out, &p.progress, time.Microsecond
	f.connect = func() (client.Client, error) { return p.api, nil }
	f.width, f.height = func() int { return p.width }, func() int { return 20 }
	c := f.command()
	c.SetArgs(strings.Fields(line))
	c.SetOut(&p.out)
	c.SetErr(&p.progress)
	code := code(&p.progress, "kairos", c.ExecuteContext(p.t.Context()))
	return code, p.out.String()
}

func (p *people) get(name string) *v1alpha1.NodeOpUpgrade {
	p.t.Helper()
	var u v1alpha1.NodeOpUpgrade
	key := client.ObjectKey{Namespace: "kairos-system", Name: name}
	if err := p.api.Get(p.t.Context(), key, &u); err != nil {
		p.t.Fatal(err)
	}
	return &u
}

// is has the operator say how far a rollout is.
func (p *people) is(name, phase, progress string, counts v1alpha1.NodeCounts) {
	p.t.Helper()
	u := p.get(name)
	u.Status.Phase, u.Status.Progress, u.Status.Nodes = phase, progress, counts
	u.Status.Target, u.Status.ObservedGeneration = rollout.Target(u.Spec), u.Generation
	u.Status.Release, u.Status.Version = "bbbbbbbbbbbb", "v2"
	if err := p.api.Status().Update(p.t.Context(), u); err != nil {
		p.t.Fatal(err)
	}
}

// records has the operator write to a node how far it is.
func (p *people) records(node string, r v1alpha1.NodeRecord) {
	p.t.Helper()
	var n corev1.Node
	if err := p.api.Get(p.t.Context(), client.ObjectKey{Name: node}, &n); err != nil {
		p.t.Fatal(err)
	}
	r.Rollout = rollout.Key(p.get("os"))
	n.Annotations[v1alpha1.AnnotationRecord] = r.String()
	if err := p.api.Update(p.t.Context(), &n); err != nil {
		p.t.Fatal(err)
	}
}

func TestUpgradeWritesTheSpec(t *testing.T) {
	p := newPeople(t)
	code, out := p.types("upgrade registry.example/os:v2 --waves 1,10% --max-unavailable 10% -l pool=a " +
		"--pause-between-waves 30m --rollback-on-failure Wave --recovery -d")
	if code != int(api.ExitUpgrade) || !strings.Contains(out, "registry.example/os:v2") {
		t.Errorf("%d\n%s%s", code, out, &p.progress)
	}
	s := p.get("os").Spec
	if s.Image != "registry.example/os:v2" || len(s.Waves) != 2 || s.Waves[0].Nodes.IntVal != 1 ||
		s.Waves[1].Nodes.StrVal != "10%" || s.MaxUnavailable.StrVal != "10%" || !*s.UpgradeRecovery ||
		s.PauseBetweenWaves.Duration != 30*time.Minute || s.RollbackOnFailure != v1alpha1.RollbackWave ||
		s.NodeSelector.MatchLabels["pool"] != "a" || s.Force != nil {
		t.Errorf("%+v", s)
	}
	// Another image keeps what no flag names, and neither stays paused nor goes back.
	p.types("pause os")
	p.types("rollback os -d")
	if s := p.get("os").Spec; !s.Rollback || s.Paused {
		t.Errorf("%+v", s)
	}
	p.types("upgrade registry.example/os:v3 --max-unavailable 2 -d")
	if s := p.get("os").Spec; s.Image != "registry.example/os:v3" || len(s.Waves) != 2 ||
		s.MaxUnavailable.IntVal != 2 ||
		s.Rollback || s.Paused {
		t.Errorf("%+v", s)
	}
}

// What scripts get: the outcome as exit code, and one object.
func TestExitCodes(t *testing.T) {
	p := newPeople(t)
	p.types("upgrade registry.example/os:v2 -d")
	for _, tc := range []struct {
		phase  string
		counts v1alpha1.NodeCounts
		back   bool
		want   api.ExitCode
	}{
		{v1alpha1.PhasePending, v1alpha1.NodeCounts{}, false, api.ExitUpgrade},
		{v1alpha1.PhaseRunning, v1alpha1.NodeCounts{FellBack: 1, Working: 1}, false, api.ExitUpgrade},
		{v1alpha1.PhaseCompleted, v1alpha1.NodeCounts{Blessed: 3}, false, api.ExitDone},
		{v1alpha1.PhaseFailed, v1alpha1.NodeCounts{FellBack: 1}, false, api.ExitFellBack},
		{v1alpha1.PhaseFailed, v1alpha1.NodeCounts{FellBack: 1, Failed: 1}, false, api.ExitFailed},
		{v1alpha1.PhaseFailed, v1alpha1.NodeCounts{}, false, api.ExitFailed},
		{v1alpha1.PhaseFailed, v1alpha1.NodeCounts{RolledBack: 3}, true, api.ExitDone},
	} {
		if tc.back {
			p.types("rollback os -d")
		}
		p.is("os", tc.phase, "progress", tc.counts)
		for _, line := range []string{"status os -o json", "status -o json"} {
			code, out := p.types(line)
			r := console.Rollout{}
			var v any = &r
			if line == "status -o json" {
				v = &[]console.Rollout{}
			}
			if err := json.Unmarshal([]byte(out), v); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if code != int(tc.want) || line != "status -o json" && (r.Outcome != tc.want || len(r.Nodes) != 3) {
				t.Errorf("%s %+v: %s: exit code %d, %+v", tc.phase, tc.counts, line, code, r)
			}
		}
	}
	for line, want := range map[string]api.ExitCode{
		"status none": api.ExitFailed, "upgrade": api.ExitUsage, "status --watch": api.ExitUsage,
		"pause":               api.ExitUsage,
		"upgrade i --waves x": api.ExitUsage, "upgrade i --waves 0": api.ExitUsage, "upgrade i -l =": api.ExitUsage,
		"status os -o yaml": api.ExitUsage, "status --nonsense": api.ExitUsage,
	} {
		code, _ := p.types(line)
		if code != int(want) || !strings.HasPrefix(p.progress.String(), "kairos: ") {
			t.Errorf("%s: %d, want %d\n%s", line, code, want, &p.progress)
		}
	}
}

// Nodes that need a person come first, each with what it runs and why.
func TestNodesAreShown(t *testing.T) {
	p := newPeople(t)
	p.types("upgrade registry.example/os:v2 -d")
	p.records("n1", v1alpha1.NodeRecord{Step: v1alpha1.StepBlessed, Wave: 1, Since: metav1.Now()})
	p.records("n3", v1alpha1.NodeRecord{Step: v1alpha1.StepFellBack, Wave: 2, Since: metav1.Now(),
		Reason: "check kubelet: not Ready within 300 s"})
	p.is("os", v1alpha1.PhaseFailed, "1/3 blessed, 1 fell back", v1alpha1.NodeCounts{FellBack: 1})
	_, out := p.types("status os")
	var order []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 0 && strings.HasPrefix(f[0], "n") {
			order = append(order, f[0])
		}
	}
	if !slices.Equal(order, []string{"n3", "n2", "n1"}) || !strings.Contains(out, "not Ready within 300 s") ||
		!strings.Contains(out, "v1 aaaaaaaaaaaa") || !strings.Contains(out, "1/3 blessed, 1 fell back") {
		t.Errorf("%q\n%s", order, out)
	}
	if _, out := p.types("status"); !strings.Contains(out, "registry.example/os:v2") {
		t.Error(out)
	}
}

// Who stays sees each change once, whether or not the cluster answers meanwhile, and ends with the rollout.
func TestStays(t *testing.T) {
	p := newPeople(t)
	p.types("upgrade registry.example/os:v2 -d")
	p.beforeRead = func(n int) error {
		switch n {
		case 3:
			p.is("os", v1alpha1.PhaseRunning, "1/3 blessed", v1alpha1.NodeCounts{})
		case 5, 6:
			return errors.New("connection refused")
		case 9:
			p.is("os", v1alpha1.PhaseCompleted, "3/3 blessed", v1alpha1.NodeCounts{})
		}
		return nil
	}
	code, out := p.types("resume os")
	told := p.progress.String()
	if code != 0 || strings.Count(told, "1/3 blessed") != 1 || strings.Count(told, "connection refused") != 1 ||
		!strings.Contains(out, "3/3 blessed") || strings.Contains(out, "\x1b") {
		t.Errorf("%d\n%s\n%s", code, told, out)
	}
	// On a terminal the same lines are drawn again.
	p.reads, p.width = 0, 40
	p.is("os", v1alpha1.PhaseRunning, "0/3 blessed", v1alpha1.NodeCounts{})
	code, out = p.types("status os --watch")
	if code != 0 || strings.Count(out, "\x1b[") != 4 || !strings.Contains(out, "3/3 blessed") {
		t.Errorf("%d\n%q", code, out)
	}
	for line := range strings.Lines(out) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 40+len("\x1b[99A\x1b[J") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	// A rollout that is deleted ends it, too.
	p.is("os", v1alpha1.PhaseRunning, "", v1alpha1.NodeCounts{})
	p.beforeRead = func(n int) error {
		if n == 12 {
			return p.api.Delete(t.Context(), p.get("os"))
		}
		return nil
	}
	if code, _ := p.types("status os -w"); code != int(api.ExitFailed) {
		t.Errorf("exit code %d", code)
	}
}

func TestPauseIsNoFailure(t *testing.T) {
	p := newPeople(t)
	p.types("upgrade registry.example/os:v2 -d")
	if code, _ := p.types("pause os"); code != 0 || !p.get("os").Spec.Paused {
		t.Errorf("exit code %d", code)
	}
	if code, _ := p.types("resume os -d"); code != int(api.ExitUpgrade) || p.get("os").Spec.Paused {
		t.Errorf("exit code %d", code)
	}
}
