//go:build fleet

package fleet

import (
	"fmt"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// The agent's service account writes its own Node's labels, report and condition, and nothing else of the cluster.
func TestAgentsRights(t *testing.T) {
	nodes := machines(t, 2) // whose agents have written their Nodes
	own, other := nodes[0].name, nodes[1].name
	config, err := account(t.Context(), "kairos-agent", nodes[0].pod)
	must(t, err)
	agent, err := kubernetes.NewForConfig(config)
	must(t, err)
	waitForPolicy(t, agent, other)
	patch := func(node, body string, sub ...string) error {
		_, err := agent.CoreV1().Nodes().Patch(t.Context(), node, types.MergePatchType, []byte(body),
			metav1.PatchOptions{}, sub...)
		return err
	}
	condition := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":"True"},{"type":%q,"status":"False",`+
		`"reason":"OnTrial"}]}}`, v1alpha1.ConditionRelease)
	anything := metav1.ObjectMeta{GenerateName: "x-"}
	for what, tc := range map[string]struct {
		err  error
		want string // a part of the refusal; "": it is none
	}{
		"its label":      {patch(own, `{"metadata":{"labels":{"kairos.io/boot-state":"passive"}}}`), ""},
		"its annotation": {patch(own, `{"metadata":{"annotations":{"kairos.io/version":"v9"}}}`), ""},
		"its condition": {func() error {
			_, err := agent.CoreV1().Nodes().Patch(t.Context(), own, types.StrategicMergePatchType,
				[]byte(strings.Replace(condition, `{"type":"Ready","status":"True"},`, "", 1)), metav1.PatchOptions{},
				"status")
			return err
		}(), ""},
		"another node's label": {patch(other, `{"metadata":{"labels":{"kairos.io/boot-state":"passive"}}}`),
			"no other"},
		"another node's condition": {patch(other, condition, "status"), "no other"},
		"its role": {patch(own, `{"metadata":{"labels":{"node-role.kubernetes.io/master":""}}}`),
			"own labels"},
		"its record": {patch(own, `{"metadata":{"annotations":{"operator.kairos.io/rollout":"{}"}}}`),
			"own annotations"},
		"its cordon": {patch(own, `{"spec":{"unschedulable":true}}`), "spec"},
		"its taints": {patch(own, `{"spec":{"taints":[{"key":"a","effect":"NoSchedule"}]}}`), "spec"},
		"its readiness": {patch(own, `{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`, "status"),
			"KairosRelease"},
		"its capacity":    {patch(own, `{"status":{"capacity":{"cpu":"9"}}}`, "status"), "KairosRelease"},
		"another's proxy": {patch(own, `{}`, "proxy"), "forbidden"},
		"nodes": {func() error {
			_, err := agent.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
			return err
		}(), "cannot list resource"},
		"its node, to read": {func() error {
			_, err := agent.CoreV1().Nodes().Get(t.Context(), own, metav1.GetOptions{})
			return err
		}(), "cannot get resource"},
		"its node, to delete": {agent.CoreV1().Nodes().Delete(t.Context(), own, metav1.DeleteOptions{}),
			"cannot delete resource"},
		"a node, to create": {func() error {
			n := &corev1.Node{ObjectMeta: anything}
			_, err := agent.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{})
			return err
		}(), "cannot create resource"},
		"secrets": {func() error {
			_, err := agent.CoreV1().Secrets(system).List(t.Context(), metav1.ListOptions{})
			return err
		}(), "cannot list resource"},
		"a secret": {func() error {
			_, err := agent.CoreV1().Secrets(system).Get(t.Context(), "x", metav1.GetOptions{})
			return err
		}(), "cannot get resource"},
		"a pod": {func() error {
			p := &corev1.Pod{ObjectMeta: anything, Spec: nodes[0].pod.Spec}
			_, err := agent.CoreV1().Pods(system).Create(t.Context(), p, metav1.CreateOptions{})
			return err
		}(), "cannot create resource"},
		"a token": {func() error {
			_, err := agent.CoreV1().ServiceAccounts(system).CreateToken(t.Context(), "kairos-operator",
				&authv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		}(), "cannot create resource"},
		"a rollout": {func() error {
			u := v1alpha1.NodeOpUpgrade{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "agents"}}
			u.Spec.Image = "x"
			c, err := client.New(config, client.Options{Scheme: cluster.admin.Scheme()})
			must(t, err)
			return c.Create(t.Context(), &u)
		}(), "cannot create resource"},
	} {
		switch {
		case tc.want == "" && tc.err != nil:
			t.Errorf("%s: %v", what, tc.err)
		case tc.want != "" && (!apierrors.IsForbidden(tc.err) && !apierrors.IsInvalid(tc.err) ||
			!strings.Contains(tc.err.Error(), tc.want)):
			t.Errorf("%s: %v, want a refusal with %q", what, tc.err, tc.want)
		}
	}
	// A token that is no pod's writes nothing.
	loose, err := account(t.Context(), "kairos-agent", nil)
	must(t, err)
	clients, err := kubernetes.NewForConfig(loose)
	must(t, err)
	_, err = clients.CoreV1().Nodes().Patch(t.Context(), own, types.MergePatchType, []byte(`{}`),
		metav1.PatchOptions{})
	if err == nil || !strings.Contains(err.Error(), "no other") {
		t.Errorf("a token of no pod: %v", err)
	}
}

// The policy is in force before a test asks for it.
func waitForPolicy(t *testing.T, config *kubernetes.Clientset, other string) {
	t.Helper()
	eventually(t, time.Minute, "the policy is in force", func() (bool, string) {
		_, err := config.CoreV1().Nodes().Patch(t.Context(), other, types.MergePatchType, []byte(`{}`),
			metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil, ""
	})
}
