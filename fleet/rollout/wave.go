package rollout

import (
	"fmt"
	"math"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// wave returns the number of the wave that is in work, when all its nodes had ended, where they have and others are
// left, and the nodes to begin with.
func (p *plan) wave(
	status v1alpha1.NodeOpUpgradeStatus,
	hold bool,
) (number int32, done *metav1.Time, begin []int, err error) {
	number, done = max(1, status.Wave), status.WaveDone
	working := 0
	for _, i := range p.own {
		r := p.records[i]
		if !r.Step.Ended() {
			working++
		}
		if r.Target == p.target && r.Wave > number { // written before the status was
			number, done = r.Wave, nil
		}
	}
	if hold {
		return number, done, nil, nil
	}
	for {
		selector, limit, err := p.waveOf(number)
		if err != nil {
			return number, done, nil, err
		}
		started, ended := 0, true
		for _, i := range p.own {
			if r := p.records[i]; r.Target == p.target && r.Wave == number {
				started++
				ended = ended && r.Step.Ended()
			}
		}
		var candidates []int
		later, kept := false, false
		for _, i := range p.rest {
			n := p.Nodes[i]
			free := n.Ready && p.busy[i] == ""
			switch matches := selector.Matches(labels.Set(n.Labels)); {
			case matches && free && started+len(candidates) < limit:
				candidates = append(candidates, i)
			case free:
				later = true
			case matches:
				kept = true
			}
		}
		switch {
		case len(candidates) > 0:
			if c := int(p.Upgrade.Spec.Concurrency); c > 0 {
				candidates = candidates[:min(len(candidates), max(0, c-working))]
			}
			return number, nil, candidates, nil
		case !ended, !later, started == 0 && kept:
			return number, nil, nil, nil
		case started > 0 && done == nil && orElse(p.Upgrade.Spec.PauseBetweenWaves, 0) > 0:
			now := metav1.NewTime(p.Now)
			return number, &now, nil, nil
		case done != nil && max(0, p.Now.Sub(done.Time)) < orElse(p.Upgrade.Spec.PauseBetweenWaves, 0):
			p.note(fmt.Sprintf("wave %d is done, and the next one begins at %s", number,
				done.Add(orElse(p.Upgrade.Spec.PauseBetweenWaves, 0)).UTC().Format(time.RFC3339)))
			return number, done, nil, nil
		}
		number, done = number+1, nil
	}
}

// waveOf returns which nodes are in a wave, and how many.
func (p *plan) waveOf(number int32) (labels.Selector, int, error) {
	waves := p.Upgrade.Spec.Waves
	if len(waves) == 0 {
		return labels.Everything(), math.MaxInt, nil
	}
	i := int(number) - 1
	if i >= len(waves) {
		last := waves[len(waves)-1]
		if last.NodeSelector != nil || last.Nodes == nil {
			return labels.Everything(), math.MaxInt, nil // who was in no wave
		}
		i = len(waves) - 1
	}
	selector, err := Selector(waves[i].NodeSelector)
	if err != nil {
		return nil, 0, fmt.Errorf("waves[%d].nodeSelector: %w", i, err)
	}
	limit := math.MaxInt
	if n := waves[i].Nodes; n != nil {
		if limit = share(n, p.total, math.Ceil); limit < 1 {
			return nil, 0, fmt.Errorf("waves[%d].nodes: %s: want a number from 1, or a part such as 10%%", i, n)
		}
	}
	return selector, limit, nil
}
