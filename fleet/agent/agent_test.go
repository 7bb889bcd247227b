package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

const bootID = "6d9e7b0e-9a3f-4c60-9f0b-0f4c7f6f2f10"

// node is a machine, its Node at an API server, and the agent on it.
type node struct {
	t      *testing.T
	api    *fake.Clientset
	file   string
	tries  int
	writes int
	err    error // what the API server answers
	now    time.Time
	state  state
}

func newNode(t *testing.T) *node {
	n := &node{
		t: t, file: filepath.Join(t.TempDir(), "status.json"), now: time.Unix(1e9, 0),
		api: fake.NewClientset(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"its": "own"}},
			Spec:       corev1.NodeSpec{Unschedulable: true},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
				{Type: corev1.NodeReady, Status: corev1.ConditionTrue},
			}},
		}),
	}
	n.restart()
	return n
}

func (n *node) restart() {
	n.state = state{agent: Agent{Nodes: n, Node: "n1", StatusFile: n.file, BootID: bootID,
		Log: slog.New(slog.DiscardHandler)}}
}

func (n *node) Patch(ctx context.Context, name string, pt types.PatchType, data []byte, o metav1.PatchOptions,
	sub ...string) (*corev1.Node, error) {
	n.tries++
	if n.err != nil {
		return nil, n.err
	}
	n.writes++
	return n.api.CoreV1().Nodes().Patch(ctx, name, pt, data, o, sub...)
}

// says has kairos-apply print a status.
func (n *node) says(s api.Status) {
	n.t.Helper()
	s.Schema = api.Schema
	b, err := json.Marshal(s)
	if err != nil {
		n.t.Fatal(err)
	}
	n.prints(string(b))
}

func (n *node) prints(text string) {
	n.t.Helper()
	err := errors.Join(os.WriteFile(n.file+".next", []byte(text), 0o600), os.Rename(n.file+".next", n.file))
	if err != nil {
		n.t.Fatal(err)
	}
}

// pass lets time go by, and has the agent look. It returns the Node, and how often it was written.
func (n *node) pass(after time.Duration) (*corev1.Node, corev1.NodeCondition, int) {
	n.t.Helper()
	n.now = n.now.Add(after)
	before := n.writes
	if !n.state.waits(n.now) {
		if err := n.state.pass(n.t.Context(), n.now); (err != nil) != (n.err != nil) {
			n.t.Fatal(err)
		}
	}
	got, err := n.api.CoreV1().Nodes().Get(n.t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	var c corev1.NodeCondition
	for _, has := range got.Status.Conditions {
		if has.Type == v1alpha1.ConditionRelease {
			c = has
		}
	}
	return got, c, n.writes - before
}

func slot(release, version string, blessed bool) *api.Slot {
	return &api.Slot{Release: release, Version: version, Blessed: blessed, TriesLeft: 3, Image: "registry.example/os"}
}

func installed(booted *api.Slot) api.Status {
	return api.Status{Mode: api.ModeInstalled, Firmware: "uefi", Booted: booted, Active: booted}
}

func TestReportIsWritten(t *testing.T) {
	n := newNode(t)
	s := installed(slot("bbbbbbbbbbbb", "v2", true))
	s.Booted.Signatures = []api.Signature{
		{Key: api.Key{ID: "sha256:01", Name: "release"}, Trusted: true}, {Key: api.Key{ID: "sha256:02"}},
	}
	s.RecoveryTrial = &api.RecoveryTrial{State: api.TrialPending, Slot: *slot("cccccccccccc", "v3", false)}
	n.says(s)
	got, c, _ := n.pass(0)
	r, err := v1alpha1.ParseReport(got.Annotations)
	if err != nil || r == nil {
		t.Fatal(r, err)
	}
	if r.BootID != bootID || r.Role != "active" || r.Booted.Release != "bbbbbbbbbbbb" || !r.Booted.Blessed ||
		strings.Join(r.Booted.SignedBy, " ") != "release" || r.RecoveryTrial.Release != "cccccccccccc" ||
		r.RecoveryTrial.State != api.TrialPending {
		t.Errorf("%s", r)
	}
	for name, want := range map[string]string{"its": "own", v1alpha1.LabelManaged: "true",
		v1alpha1.LabelBootState: "active", v1alpha1.LabelRelease: "bbbbbbbbbbbb", v1alpha1.LabelTrial: "false"} {
		if got.Labels[name] != want {
			t.Errorf("label %s: %q, want %q", name, got.Labels[name], want)
		}
	}
	if got.Annotations[v1alpha1.AnnotationVersion] != "v2" || !got.Spec.Unschedulable ||
		len(got.Status.Conditions) != 2 {
		t.Errorf("%+v", got)
	}
	if c.Status != corev1.ConditionTrue || c.Reason != v1alpha1.ReasonBlessed {
		t.Errorf("%+v", c)
	}
}

// What a person reads of a node, by its status.
func TestCondition(t *testing.T) {
	v1, v2 := slot("aaaaaaaaaaaa", "v1", true), slot("bbbbbbbbbbbb", "v2", false)
	fell := installed(v1)
	fell.Failed = []api.Slot{*v2}
	fell.Failed[0].Failure = &api.Failure{Reason: "check kubelet: not Ready within 300 s", Log: "secret"}
	pending := installed(v1)
	pending.Active = v2
	passive := api.Status{Mode: api.ModeInstalled, Booted: v1, Active: v2, Passive: v1}
	recovery := api.Status{Mode: api.ModeRecovery, Booted: v1, Failed: fell.Failed}
	for name, tc := range map[string]struct {
		status                 api.Status
		want, message, state   string
		trial, pending, absent string
	}{
		"blessed":  {installed(v1), "Blessed", "v1 (aaaaaaaaaaaa) has proved healthy", "active", "false", "false", ""},
		"trial":    {installed(v2), "OnTrial", "has 3 more tries", "active", "true", "false", ""},
		"fellback": {fell, "FellBack", "not Ready within 300 s; v1", "active", "false", "false", "secret"},
		"pending":  {pending, "Blessed", "v2 (bbbbbbbbbbbb) boots next", "active", "false", "true", ""},
		"passive":  {passive, "Blessed", "boots next", "passive", "false", "true", ""},
		"recovery": {recovery, "Recovery", "v2 (bbbbbbbbbbbb) failed", "recovery", "false", "false", ""},
		"live": {api.Status{Mode: api.ModeLive, Booted: v1}, "Live", "live medium", "livecd", "false", "false",
			""},
		"none": {api.Status{Mode: api.ModeNone}, "Unknown", "not started by Kairos", "unknown", "", "false", ""},
	} {
		n := newNode(t)
		n.says(tc.status)
		got, c, _ := n.pass(0)
		if c.Reason != tc.want || !strings.Contains(c.Message, tc.message) ||
			(c.Status == corev1.ConditionTrue) != (tc.want == "Blessed") ||
			(c.Status == corev1.ConditionUnknown) != (tc.want == "Unknown") {
			t.Errorf("%s: %+v", name, c)
		}
		if got.Labels[v1alpha1.LabelBootState] != tc.state || got.Labels[v1alpha1.LabelTrial] != tc.trial {
			t.Errorf("%s: labels %v", name, got.Labels)
		}
		r, err := v1alpha1.ParseReport(got.Annotations)
		if err != nil {
			t.Fatal(err)
		}
		if r.PendingRestart != (tc.pending == "true") {
			t.Errorf("%s: %s", name, r)
		}
		if tc.absent != "" && strings.Contains(r.String(), tc.absent) {
			t.Errorf("%s: the console's log is in the report: %s", name, r)
		}
	}
}

// It writes when something changes and at its heartbeat, and not when the file is written again as it was.
func TestWritesAreFew(t *testing.T) {
	n := newNode(t)
	n.says(installed(slot("aaaaaaaaaaaa", "v1", false)))
	_, first, writes := n.pass(0)
	if writes != 2 {
		t.Fatalf("%d writes", writes)
	}
	for range 50 { // 25 minutes, each half of one a new file
		n.says(installed(slot("aaaaaaaaaaaa", "v1", false)))
		if _, _, writes := n.pass(30 * time.Second); writes != 0 {
			t.Fatalf("%d writes, and nothing has changed", writes)
		}
	}
	n.says(installed(slot("aaaaaaaaaaaa", "v1", false)))
	_, c, writes := n.pass(time.Hour)
	if writes != 2 || !c.LastHeartbeatTime.After(first.LastHeartbeatTime.Time) ||
		!c.LastTransitionTime.Equal(&first.LastTransitionTime) {
		t.Errorf("heartbeat: %d writes, %+v", writes, c)
	}
	n.says(installed(slot("aaaaaaaaaaaa", "v1", true)))
	_, c, writes = n.pass(time.Second)
	if writes != 2 || c.Reason != "Blessed" || c.LastTransitionTime.Equal(&first.LastTransitionTime) {
		t.Errorf("blessed: %d writes, %+v", writes, c)
	}
	// Another process does not know what is written, and finds that nothing has changed.
	n.restart()
	_, again, _ := n.pass(time.Minute)
	if !again.LastTransitionTime.Equal(&c.LastTransitionTime) {
		t.Errorf("after a restart: %+v, before it %+v", again, c)
	}
}

// A node that says nothing, or something that cannot be read, is not reported to be as it was.
func TestUnknown(t *testing.T) {
	n := newNode(t)
	if got, c, _ := n.pass(0); c.Reason != "Unknown" || !strings.Contains(c.Message, "kairos-status.timer") ||
		got.Annotations[v1alpha1.AnnotationReport] != "" {
		t.Errorf("without a file: %+v", c)
	}
	for text, want := range map[string]string{
		"{": "unexpected end", `{"schema":2}`: "different versions", strings.Repeat(" ", maxStatus+1): "larger",
	} {
		n.prints(text)
		if _, c, _ := n.pass(time.Second); c.Reason != "Unknown" || !strings.Contains(c.Message, want) {
			t.Errorf("%.20q: %+v", text, c)
		}
	}
	n.says(installed(slot("aaaaaaaaaaaa", "v1", true)))
	if _, c, _ := n.pass(time.Second); c.Reason != "Blessed" {
		t.Errorf("%+v", c)
	}
	if _, c, _ := n.pass(silent); c.Reason != "Blessed" {
		t.Errorf("before its time: %+v", c)
	}
	got, c, _ := n.pass(time.Minute)
	if c.Reason != "Unknown" || !strings.Contains(c.Message, "not answered") {
		t.Errorf("of a file that nobody writes: %+v", c)
	}
	if r, err := v1alpha1.ParseReport(got.Annotations); err != nil || r.Booted.Release != "aaaaaaaaaaaa" {
		t.Errorf("what was said last is gone: %v, %v", r, err)
	}
}

// An API server that is away is asked again, ever less often, and gets the last state, not those between.
func TestAPIServerIsAway(t *testing.T) {
	n := newNode(t)
	n.err = errors.New("connection refused")
	n.says(installed(slot("aaaaaaaaaaaa", "v1", false)))
	for range 1200 { // an hour
		n.pass(look)
	}
	if n.tries < 15 || n.tries > 100 {
		t.Errorf("%d tries in an hour", n.tries)
	}
	n.says(installed(slot("aaaaaaaaaaaa", "v1", true)))
	n.err = nil
	if _, c, writes := n.pass(2 * lastWait); c.Reason != "Blessed" || writes != 2 {
		t.Errorf("%d writes, %+v", writes, c)
	}
	if _, _, writes := n.pass(look); writes != 0 {
		t.Errorf("%d writes more", writes)
	}
}

// Two writes make one state: where the second one fails, both are done again.
func TestSecondWriteFails(t *testing.T) {
	n := newNode(t)
	n.says(installed(slot("aaaaaaaaaaaa", "v1", true)))
	n.state.agent.Nodes = failSecond{n}
	if err := n.state.pass(t.Context(), n.now); err == nil {
		t.Fatal("no error")
	}
	n.state.agent.Nodes = n
	if _, c, writes := n.pass(lastWait); c.Reason != "Blessed" || writes != 2 {
		t.Errorf("%d writes, %+v", writes, c)
	}
}

type failSecond struct{ *node }

func (n failSecond) Patch(ctx context.Context, name string, pt types.PatchType, data []byte, o metav1.PatchOptions,
	sub ...string) (*corev1.Node, error) {
	if len(sub) > 0 {
		return nil, errors.New("conflict")
	}
	return n.node.Patch(ctx, name, pt, data, o)
}

// A report of the largest status leaves room in a Node.
func TestReportIsBounded(t *testing.T) {
	long := strings.Repeat("ä", 5000)
	s := slot("aaaaaaaaaaaa", long, false)
	s.Image, s.Failure = long, &api.Failure{Reason: long, Log: long}
	for range 50 {
		s.Signatures = append(s.Signatures, api.Signature{Key: api.Key{ID: "sha256:" + long}, Trusted: true})
	}
	status := api.Status{Mode: api.ModeInstalled, Booted: s, Active: s, Passive: s, Recovery: s,
		RecoveryTrial: &api.RecoveryTrial{Slot: *s}}
	for range 50 {
		status.Failed = append(status.Failed, *s)
		status.Problems = append(status.Problems, long)
	}
	if n := len(reportOf(status, bootID).String()); n > 16<<10 {
		t.Errorf("%d bytes", n)
	}
}

// Run ends with its context, whatever the API server says.
func TestRunEnds(t *testing.T) {
	n := newNode(t)
	n.err = errors.New("away")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := n.state.agent.Run(ctx); err != nil {
		t.Error(err)
	}
	if id, err := ReadBootID(); err != nil || len(id) != 36 {
		t.Errorf("%q, %v", id, err)
	}
}
