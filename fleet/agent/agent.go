// Package agent has a node tell its cluster which release it runs: in its Node's labels, its annotation
// [v1alpha1.AnnotationReport] and its condition [v1alpha1.ConditionRelease], and in nothing else.
//
//	root of the node: kairos-status.timer ── kairos-apply status -o json ──▶ /run/kairos/status/status.json
//	pod of the agent: not root, reads that folder alone ──▶ PATCH of its own Node
//
// What a node boots next stands on its ESP, a block device: reading it takes a privileged container, which the agent's
// is not. So the node itself writes down what it sees, by the units in deploy/node, and the agent carries it.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// Times of an agent. Each is made longer by up to a tenth, at random: nodes that started together write apart.
const (
	look      = 3 * time.Second  // between two looks at the file, which are one stat(2)
	silent    = 5 * time.Minute  // a file that is not written again in this time says nothing any more
	heartbeat = 30 * time.Minute // writes when nothing has changed
	firstWait = 2 * time.Second  // after a write that failed
	lastWait  = 2 * time.Minute
)

// maxStatus is the largest status that is read: it has the last lines of consoles.
const maxStatus = 1 << 20

// Nodes is the part of a client that an agent uses. It needs the right to patch nodes and nodes/status, and no other.
type Nodes interface {
	Patch(ctx context.Context, name string, pt types.PatchType, data []byte, o metav1.PatchOptions,
		subresources ...string) (*corev1.Node, error)
}

// Agent writes what the file StatusFile says to one Node. All fields have to be set.
type Agent struct {
	Nodes      Nodes
	Node       string // name of this machine's Node
	StatusFile string // what `kairos-apply status -o json` printed
	BootID     string // what [ReadBootID] returns
	Log        *slog.Logger
}

// Run writes until the context ends. It fails for nothing else: what cannot be read is in the Node's condition, and a
// cluster that cannot be reached is tried again.
func (a Agent) Run(ctx context.Context) error {
	s := state{agent: a}
	for {
		now := time.Now()
		if !s.waits(now) {
			if err := s.pass(ctx, now); err != nil && ctx.Err() == nil {
				a.Log.Warn("the Node cannot be written",
					"node", a.Node, "again", s.wait.Round(time.Second), "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(later(look)):
		}
	}
}

// later is a time and up to a tenth of it.
func later(d time.Duration) time.Duration { return d + rand.N(d/10) }

// state is what an agent remembers. A new one writes all of it again.
type state struct {
	agent Agent

	file    os.FileInfo // as it was read last
	fresh   time.Time   // when it was seen to be another one
	report  *v1alpha1.NodeReport
	problem string // why report says nothing

	written   string    // what the Node has
	beat      time.Time // when to write again although nothing has changed
	wait      time.Duration
	notBefore time.Time // when to try again
}

func (s *state) waits(now time.Time) bool { return now.Before(s.notBefore) }

// pass looks at the file, and writes what is not written yet.
func (s *state) pass(ctx context.Context, now time.Time) error {
	s.read(now)
	c := unknown(s.problem)
	if s.problem == "" {
		c = condition(*s.report)
	}
	wanted := c.String()
	if s.report != nil {
		wanted += s.report.String()
	}
	if wanted == s.written && now.Before(s.beat) {
		return nil
	}
	if err := s.write(ctx, c, now, wanted != s.written); err != nil {
		s.wait = min(max(firstWait, 2*s.wait), lastWait)
		s.notBefore = now.Add(s.wait/2 + rand.N(s.wait))
		return err
	}
	s.written, s.beat, s.wait = wanted, now.Add(later(heartbeat)), 0
	return nil
}

// read reads the file where it is another one than before.
func (s *state) read(now time.Time) {
	info, err := os.Stat(s.agent.StatusFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.file, s.problem = nil, "the node does not write "+s.agent.StatusFile+
			": it needs kairos-status.timer, see docs/fleet.md"
		return
	case err != nil:
		s.file, s.problem = nil, err.Error()
		return
	}
	if s.file != nil && os.SameFile(info, s.file) && info.ModTime().Equal(s.file.ModTime()) {
		// By this process' clock, not by the file's time: a node's clock jumps when it learns the time.
		if now.Sub(s.fresh) > silent {
			s.problem = fmt.Sprintf("kairos-apply has not answered for %s: see `systemctl status kairos-status` there",
				silent)
		}
		return
	}
	s.file, s.fresh, s.problem = info, now, ""
	status, err := readStatus(s.agent.StatusFile)
	if err != nil {
		s.problem = err.Error()
		return
	}
	r := reportOf(status, s.agent.BootID)
	s.report = &r
}

func readStatus(name string) (s api.Status, err error) {
	f, err := os.Open(name)
	if err != nil {
		return s, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxStatus+1))
	switch {
	case err != nil:
		return s, err
	case len(b) > maxStatus:
		return s, fmt.Errorf("%s is larger than %d bytes", name, maxStatus)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("%s: %w", name, err)
	}
	if s.Schema != api.Schema {
		return s, fmt.Errorf("%s: schema %d is not known, want %d: "+
			"the agent and kairos-apply are of different versions", name, s.Schema, api.Schema)
	}
	return s, nil
}

// write writes the report where it has changed, and the condition. Of the Node it knows what the API server answers.
func (s *state) write(ctx context.Context, c corev1.NodeCondition, now time.Time, changed bool) error {
	meta := map[string]any{}
	if s.report != nil && s.problem == "" {
		labels, annotations := keys(*s.report)
		meta = map[string]any{"labels": labels, "annotations": annotations}
	}
	n, err := s.patch(ctx, map[string]any{"metadata": meta})
	if err != nil {
		return fmt.Errorf("patch node %s: %w", s.agent.Node, err)
	}
	c.LastHeartbeatTime = metav1.NewTime(now)
	c.LastTransitionTime = c.LastHeartbeatTime
	for _, old := range n.Status.Conditions {
		if old.Type == c.Type && old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
	}
	patch := map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{c}}}
	if _, err := s.patch(ctx, patch, "status"); err != nil {
		return fmt.Errorf("patch the status of node %s: %w", s.agent.Node, err)
	}
	if changed {
		s.agent.Log.Info("the Node is written", "node", s.agent.Node, "condition", c.Reason, "message", c.Message)
	}
	return nil
}

func (s *state) patch(ctx context.Context, patch map[string]any, subresource ...string) (*corev1.Node, error) {
	b, err := json.Marshal(patch)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	return s.agent.Nodes.Patch(ctx, s.agent.Node, types.StrategicMergePatchType, b,
		metav1.PatchOptions{FieldManager: "kairos-agent"}, subresource...)
}

// ReadBootID reads this boot's ID, which containers see as their node does.
func ReadBootID() (string, error) {
	b, err := os.ReadFile(v1alpha1.BootIDFile)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}
