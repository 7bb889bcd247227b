package operator

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

var (
	rolloutNodes = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "kairos_rollout_nodes",
		Help: "Nodes of a rollout by their state.",
	}, []string{"namespace", "name", "state"})
	steps = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kairos_rollout_steps_total",
		Help: "Steps that nodes have come to in all rollouts.",
	}, []string{"step"})
	opNodes = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "kairos_nodeop_nodes",
		Help: "Nodes of a NodeOp by their state.",
	}, []string{"namespace", "name", "state"})
	opSteps = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kairos_nodeop_steps_total",
		Help: "Steps that nodes have come to in all NodeOps.",
	}, []string{"step"})
)

func init() { metrics.Registry.MustRegister(rolloutNodes, steps, opNodes, opSteps) }

func count(of types.NamespacedName, c v1alpha1.NodeCounts) {
	set(rolloutNodes, of, map[string]int32{
		"waiting": c.Waiting, "away": c.Away, "working": c.Working, "blessed": c.Blessed, "fell_back": c.FellBack,
		"failed": c.Failed, "rolled_back": c.RolledBack,
	})
}

func countOp(of types.NamespacedName, c v1alpha1.NodeOpCounts) {
	set(opNodes, of, map[string]int32{
		"waiting": c.Waiting, "away": c.Away, "working": c.Working, "completed": c.Completed, "skipped": c.Skipped,
		"failed": c.Failed,
	})
}

func set(g *prometheus.GaugeVec, of types.NamespacedName, states map[string]int32) {
	for state, n := range states {
		g.WithLabelValues(of.Namespace, of.Name, state).Set(float64(n))
	}
}

func forget(g *prometheus.GaugeVec, of types.NamespacedName) {
	g.DeletePartialMatch(prometheus.Labels{"namespace": of.Namespace, "name": of.Name})
}
