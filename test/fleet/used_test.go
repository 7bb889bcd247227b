//go:build fleet

package fleet

import (
	"os"
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/kairos-buildkit/kairos/deploy/deploytest"
)

// unasked are rights that no test asks for, and why the operator has them.
var unasked = map[string]string{
	"update nodeopupgrades/finalizers.operator.kairos.io": "OwnerReferencesPermissionEnforcement asks for it",
	"update nodeops/finalizers.operator.kairos.io":        "the same",
	"list nodeopupgrades.operator.kairos.io":              "an API server that streams no lists",
	"list nodeops.operator.kairos.io":                     "the same",
	"list nodes.":                                         "the same",
	"list jobs.batch":                                     "the same",
	"get jobs.batch":                                      "a Job that the cache does not have yet",
	"delete jobs.batch":                                   "a command that did not begin in ten minutes",
	"patch events.":                                       "leader election's, where it comes again",
}

// The operator has used each of its rights in the tests before this one, and asked for none that it has not. It is
// the last test.
func TestOperatorsRights(t *testing.T) {
	used := map[string]int{}
	refused := map[string]request{}
	requests(t, 0, func(r request) {
		if r.Status.Code == 403 {
			refused[r.right()] = r
			return
		}
		used[r.right()]++
	})
	if len(used) < 10 {
		t.Fatalf("the operator has not run: %v", used)
	}
	b, err := os.ReadFile(deploy + "rbac/role.yaml")
	must(t, err)
	roles, err := deploytest.Parse(b)
	must(t, err)
	var has []string
	for _, o := range roles {
		var role rbacv1.Role // a ClusterRole's rules are the same
		text, err := yaml.Marshal(o.Object)
		must(t, err)
		must(t, yaml.Unmarshal(text, &role))
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						has = append(has, verb+" "+resource+"."+group)
					}
				}
			}
		}
	}
	for right, r := range refused {
		if !slices.Contains(has, right) { // an API server that has just started may not know its roles yet
			t.Errorf("refused: %s %+v", right, r.ObjectRef)
		}
	}
	for _, right := range has {
		if used[right] == 0 && unasked[right] == "" {
			t.Errorf("the operator may %s, and never does", right)
		}
	}
	for right := range unasked {
		if !slices.Contains(has, right) {
			t.Errorf("%s: the operator has no such right", right)
		}
	}
	t.Log(used)
}
