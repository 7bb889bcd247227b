package rollout

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// Input is what is known when something is to be decided.
type Input struct {
	Now     time.Time
	Upgrade *v1alpha1.NodeOpUpgrade
	// Nodes are those that the spec's selector chooses.
	Nodes []Node
	// Busy says which object has a node in work, or comes before this one; "" is none.
	Busy func(node Node) string
	// Held says which NodeOp has a node in work that this rollout has begun with; "" is none. Meanwhile the node stays
	// where it is: it is neither cordoned nor taken up again. nil: no node is.
	Held func(node Node) string
	// Helper returns the helper pod on a node that has this [HelperID]; nil where there is none.
	Helper func(node, id string) *Helper
}

// Decision is what is to be done.
type Decision struct {
	Acts   []Act // of nodes that have something to be done, by name
	Status v1alpha1.NodeOpUpgradeStatus
	// Over says that nothing is left to be done.
	Over bool
	// After is when to ask again, if nothing changes before. 0: no need to.
	After time.Duration
}

// Key names a NodeOpUpgrade or a NodeOp in annotations of Nodes: an object of the same name that comes later is
// another one.
func Key(o metav1.Object) string {
	return fmt.Sprintf("%s/%s@%s", o.GetNamespace(), o.GetName(), o.GetUID())
}

// Target is a digest of what a spec wants of each node.
func Target(s v1alpha1.NodeOpUpgradeSpec) string {
	b, err := json.Marshal([]any{
		s.Image, ptr.Deref(s.UpgradeActive, true), ptr.Deref(s.UpgradeRecovery, false), ptr.Deref(s.Force, false),
	})
	if err != nil {
		panic(err) // strings and booleans
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

// Over says that a rollout has come to its end, and the spec has not named another target since.
func Over(u *v1alpha1.NodeOpUpgrade) bool {
	return (u.Status.Phase == v1alpha1.PhaseCompleted || u.Status.Phase == v1alpha1.PhaseFailed) &&
		u.Status.Target == Target(u.Spec) && (!u.Spec.Rollback || u.Status.ObservedGeneration == u.Generation)
}

// Selector returns the nodes that a spec chooses.
func Selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

// AfterDrain says what follows on a try to evict the pods of a node, which an [Act] has asked for.
func AfterDrain(now time.Time, u *v1alpha1.NodeOpUpgrade, n Node, d Drain) Act {
	if n.Record == nil || n.Record.Rollout != Key(u) || n.Record.Step != v1alpha1.StepCordoning {
		return Act{Node: n.Name}
	}
	return step{now: now, u: u, node: n, r: *n.Record}.afterDrain(d)
}

// plan is one decision.
type plan struct {
	Input
	key, target string
	pin         pin
	total       int
	own         []int          // Nodes that the rollout has begun with
	rest        []int          // and those that it has not, in their order
	busy        map[int]string // those of the rest that another object has
	records     map[int]v1alpha1.NodeRecord
	unavailable int
	held        bool // a NodeOp has a node whose turn it might be
	notes       []string
}

// Decide says what is to be done for a rollout, and what its status is then.
func Decide(in Input) (Decision, error) {
	u := in.Upgrade
	if Over(u) {
		return Decision{Status: u.Status, Over: true}, nil
	}
	p := &plan{Input: in, key: Key(u), target: Target(u.Spec), total: len(in.Nodes),
		busy: map[int]string{}, records: map[int]v1alpha1.NodeRecord{}}
	open, next, err := Open(u.Spec.Windows, in.Now)
	if err != nil {
		return Decision{}, err
	}
	p.sort()
	d := Decision{Status: *u.Status.DeepCopy()}
	if d.Status.Target != p.target {
		d.Status = v1alpha1.NodeOpUpgradeStatus{Conditions: d.Status.Conditions, LastUpdated: d.Status.LastUpdated}
	}
	p.pin = pinOf(u.Spec, d.Status, p.sortedRecords())

	stopped := p.stopped()
	undo := p.undo()
	hold := stopped != "" || u.Spec.Paused || u.Spec.Rollback
	wave, done, begin, err := p.wave(d.Status, hold)
	if err != nil {
		return d, err
	}
	if !open && len(p.own)+len(begin) > 0 {
		p.notes = append(p.notes, "the next window begins at "+next.UTC().Format("2006-01-02 15:04 MST"))
		d.After = next.Sub(in.Now)
	}
	acts := map[int]Act{}
	for _, i := range begin {
		acts[i] = p.begin(i, wave)
	}
	p.advance(acts, undo, hold, open)
	for _, i := range slices.Sorted(maps.Keys(acts)) {
		a := acts[i]
		if a.Record != nil || a.Cordon || a.Uncordon || a.Drain || a.Helper != nil {
			d.Acts = append(d.Acts, a)
		}
		if a.Record != nil {
			p.records[i] = *a.Record
		}
		d.After = Sooner(d.After, a.After)
	}
	if len(p.busy) > 0 || p.held {
		d.After = Sooner(d.After, pollBusy) // nothing of this rollout's changes when another object is over
	}
	slices.SortFunc(d.Acts, func(a, b Act) int { return cmp.Compare(a.Node, b.Node) })
	p.pin = pinOf(u.Spec, d.Status, p.sortedRecords())
	if done != nil {
		d.After = Sooner(d.After, max(time.Second, orElse(u.Spec.PauseBetweenWaves, 0)-in.Now.Sub(done.Time)))
	}
	p.status(&d, wave, done, p.stopped())
	return d, nil
}

// sort puts the nodes into their order, and finds out which of them the rollout has begun with.
func (p *plan) sort() {
	p.Nodes = slices.Clone(p.Nodes)
	Sort(p.Nodes)
	for i, n := range p.Nodes {
		if !n.available() {
			p.unavailable++
		}
		if r := n.Record; r != nil && r.Rollout == p.key && (r.Target == p.target || underway(r.Step)) {
			p.own = append(p.own, i)
			p.records[i] = *r
			continue
		}
		p.rest = append(p.rest, i)
		if p.Busy != nil {
			if by := p.Busy(n); by != "" {
				p.busy[i] = by
			}
		}
	}
}

// underway says that what has begun is finished, also where the spec has got another target meanwhile: the node is on
// its way to that release, and has to arrive somewhere.
func underway(s v1alpha1.Step) bool { return s == v1alpha1.StepRestarting || s == v1alpha1.StepTrial }

func (p *plan) sortedRecords() []v1alpha1.NodeRecord {
	var all []v1alpha1.NodeRecord
	for _, i := range slices.Sorted(maps.Keys(p.records)) {
		if p.records[i].Target == p.target {
			all = append(all, p.records[i])
		}
	}
	slices.SortStableFunc(all, func(a, b v1alpha1.NodeRecord) int { return a.Since.Compare(b.Since.Time) })
	return all
}

// stopped says why no further node is begun with for good.
func (p *plan) stopped() string {
	s := p.Upgrade.Spec
	if !ptr.Deref(s.StopOnFailure, len(s.Waves) > 0) &&
		(s.RollbackOnFailure == "" || s.RollbackOnFailure == v1alpha1.RollbackNone) {
		return ""
	}
	for _, i := range slices.Sorted(maps.Keys(p.records)) {
		switch r := p.records[i]; {
		case r.Target != p.target:
		case r.Step == v1alpha1.StepFellBack:
			return fmt.Sprintf("node %s fell back: %s", p.Nodes[i].Name, r.Reason)
		case r.Step == v1alpha1.StepFailed:
			return fmt.Sprintf("node %s failed: %s", p.Nodes[i].Name, r.Reason)
		}
	}
	return ""
}

// undo returns which nodes are to go back to the release that they ran before.
func (p *plan) undo() func(v1alpha1.NodeRecord) bool {
	s := p.Upgrade.Spec
	waves := map[int32]bool{}
	for _, r := range p.records {
		if r.Target == p.target && (r.Step == v1alpha1.StepFellBack || r.Step == v1alpha1.StepFailed) {
			waves[r.Wave] = true
		}
	}
	return func(r v1alpha1.NodeRecord) bool {
		switch {
		case r.Undo || r.From == "" && r.Step == v1alpha1.StepBlessed:
			return false
		case s.Rollback:
			return true
		case s.RollbackOnFailure == v1alpha1.RollbackAll:
			return len(waves) > 0
		case s.RollbackOnFailure == v1alpha1.RollbackWave:
			return waves[r.Wave]
		}
		return false
	}
}

// begin is the first record of a node.
func (p *plan) begin(i int, wave int32) Act {
	n := p.Nodes[i]
	r := v1alpha1.NodeRecord{
		Rollout: p.key, Target: p.target, Wave: wave, Step: v1alpha1.StepStaging, Since: metav1.NewTime(p.Now),
		Image: p.pin.image(p.Upgrade.Spec.Image), From: n.booted(),
	}
	if !ptr.Deref(p.Upgrade.Spec.UpgradeActive, true) && ptr.Deref(p.Upgrade.Spec.UpgradeRecovery, false) {
		r.Step = v1alpha1.StepRecovery
	}
	return Act{Node: n.Name, Record: &r}
}

// advance lets each node that the rollout has begun with take its next step.
func (p *plan) advance(acts map[int]Act, undo func(v1alpha1.NodeRecord) bool, hold, open bool) {
	s := p.Upgrade.Spec
	limit, limited := p.maxUnavailable()
	working := 0
	for _, i := range p.own {
		if !p.records[i].Step.Ended() {
			working++
		}
	}
	for _, i := range p.own {
		n, r := p.Nodes[i], p.records[i]
		st := step{now: p.Now, u: p.Upgrade, node: n, r: r, pin: p.pin}
		if Ahead(r, p.Now) {
			st.r.Since = metav1.NewTime(p.Now)
			acts[i] = Act{Node: n.Name, Record: &st.r}
			continue
		}
		if r.Target != p.target && !underway(r.Step) {
			continue
		}
		if back := undo(r); back && r.Target == p.target {
			switch r.Step {
			case v1alpha1.StepStaging, v1alpha1.StepStaged, v1alpha1.StepCordoning:
				acts[i] = st.to(v1alpha1.StepRolledBack, "it was rolled back before it had begun")
				continue
			case v1alpha1.StepBlessed:
				if r.Release == r.From || s.Concurrency > 0 && working >= int(s.Concurrency) {
					continue
				}
				working++
				st.r.Undo = true
				acts[i] = st.to(v1alpha1.StepStaged, "")
				continue
			}
		}
		if by := p.heldBy(n); by != "" && (r.Step == v1alpha1.StepStaged || r.Step.Ended()) {
			p.held = true
			if r.Step == v1alpha1.StepStaged {
				p.note(fmt.Sprintf("waits for node %s, which %s has", n.Name, by))
			}
			continue
		}
		turn := false
		if r.Step == v1alpha1.StepStaged {
			turn = r.Undo || !hold && open
			if turn && limited && n.available() {
				turn = p.unavailable < limit
				if turn {
					p.unavailable++
				} else {
					p.note("nodes wait: as many are not available as maxUnavailable has it")
				}
			}
		}
		var h *Helper
		if p.Helper != nil {
			h = p.Helper(n.Name, HelperID(r))
		}
		acts[i] = st.next(h, turn)
	}
}

func (p *plan) heldBy(n Node) string {
	if p.Held == nil {
		return ""
	}
	return p.Held(n)
}

func (p *plan) note(s string) {
	if !slices.Contains(p.notes, s) {
		p.notes = append(p.notes, s)
	}
}

// maxUnavailable is how many nodes may be unavailable, at least one.
func (p *plan) maxUnavailable() (n int, limited bool) {
	m := p.Upgrade.Spec.MaxUnavailable
	if m == nil {
		return 0, false
	}
	return max(1, share(m, p.total, math.Floor)), true
}

// share is a number, or a part of total. What is neither is none, and then nothing begins; the definition of the field
// lets the API server refuse it.
func share(v *intstr.IntOrString, total int, round func(float64) float64) int {
	if v.Type == intstr.Int {
		return v.IntValue()
	}
	var percent float64
	if _, err := fmt.Sscanf(v.StrVal, "%g%%", &percent); err != nil || !strings.HasSuffix(v.StrVal, "%") {
		return 0
	}
	return int(round(percent * float64(total) / 100))
}

// Sooner is the earlier of two times to ask again, of which 0 is none.
func Sooner(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}
