//go:build fleet

package fleet

import (
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kairos-buildkit/kairos/deploy/deploytest"
	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// As the Kairos project's users write them: each field of theirs, with generated names, and little at all.
var theirs = map[string]string{
	"an operation with drain": `
kind: NodeOp
metadata:
  name: hello
  namespace: default
  labels: {app.kubernetes.io/name: operator}
spec:
  image: busybox:latest
  command: ["sh", "-c", "echo hello && hostname"]
  cordon: true
  drainOptions:
    enabled: true
    force: false
    gracePeriodSeconds: 30
    ignoreDaemonSets: true
    deleteEmptyDirData: false
    timeoutSeconds: 300
`,
	"a command, and nothing else": `
kind: NodeOp
metadata: {generateName: demo-, namespace: default}
spec: {command: [sh, -c, exit 0]}
`,
	"an operation with all fields": `
kind: NodeOp
metadata: {name: flash, namespace: default}
spec:
  nodeSelector:
    matchLabels: {kairos.io/managed: "true"}
    matchExpressions: [{key: node-role.kubernetes.io/control-plane, operator: DoesNotExist}]
  image: alpine:3
  imagePullSecrets: [{name: registry}]
  command:
  - sh
  - -ec
  - |
    echo "on $(hostname)"
    chroot "$HOST_DIR" true
  hostMountPath: /host
  cordon: true
  uncordonOnFailure: true
  drainOptions: {enabled: true}
  rebootOnSuccess: true
  backoffLimit: 3
  concurrency: 1
  stopOnFailure: true
  preflight:
    image: alpine:3
    activeDeadlineSeconds: 60
    command: [sh, -c, "test -e /host/done && echo done > /dev/termination-log; exit 0"]
`,
	"an upgrade of the canary's kind": `
kind: NodeOpUpgrade
metadata: {name: upgrade, namespace: default}
spec:
  image: registry.example/os:v2
  nodeSelector: {matchLabels: {kairos.io/managed: "true"}}
  concurrency: 1
  stopOnFailure: true
`,
	"an upgrade with all fields": `
kind: NodeOpUpgrade
metadata: {name: whole, namespace: default}
spec:
  image: registry.example/os:v2
  imagePullSecrets: [{name: registry}]
  nodeSelector: {matchLabels: {kairos.io/managed: "true"}}
  concurrency: 1
  stopOnFailure: true
  upgradeActive: false
  upgradeRecovery: true
  force: false
  debug: true
  uncordonOnFailure: true
  excludePaths: [/var/lib/mine, /opt/keep]
`,
}

const beyond = "kind: NodeOpUpgrade\nmetadata: {name: x, namespace: default}\nspec: {image: i, "

// Manifests that an API server has to refuse, each with a part of what it says.
var wrong = map[string][2]string{
	"no command": {"kind: NodeOp\nmetadata: {name: x, namespace: default}\nspec: {image: i}",
		"spec.command: Required value"},
	"no image": {"kind: NodeOpUpgrade\nmetadata: {name: x, namespace: default}\nspec: {concurrency: 1}",
		"spec.image: Required value"},
	"an unknown field":  {beyond + "wave: []}", `unknown field "spec.wave"`},
	"concurrency":       {beyond + "concurrency: -1}", "spec.concurrency"},
	"a number in words": {beyond + "concurrency: two}", "spec.concurrency"},
	"a policy":          {beyond + "rollbackOnFailure: Some}", `Unsupported value: "Some"`},
	"a wave of nobody":  {beyond + "waves: [{nodes: 0}]}", "spec.waves[0].nodes"},
	"no part of them":   {beyond + "waves: [{nodes: 0.00%}]}", "spec.waves[0].nodes"},
	"a pin":             {beyond + "pin: Tag}", `Unsupported value: "Tag"`},
	"away":              {beyond + "away: Never}", `Unsupported value: "Never"`},
	"a day": {beyond + "windows: [{days: [Monday], start: '22:00', duration: 1h}]}",
		`Unsupported value: "Monday"`},
	"a time":             {beyond + "windows: [{start: '25:00', duration: 1h}]}", "spec.windows[0].start"},
	"no duration":        {beyond + "windows: [{start: '22:00'}]}", "spec.windows[0].duration: Required value"},
	"a duration":         {beyond + "pauseBetweenWaves: soon}", "want a duration such as 30m"},
	"half a node":        {beyond + "maxUnavailable: half}", "spec.maxUnavailable"},
	"a wave of a word":   {beyond + "waves: [{nodes: some}]}", "spec.waves[0].nodes"},
	"an image of nobody": {beyond[:strings.Index(beyond, "image: i")] + "image: ''}", "spec.image"},
	"a drain":            {beyond + "drainOptions: {timeoutSeconds: long}}", "spec.drainOptions.timeoutSeconds"},
}

// create has the API server look at a manifest with strict validation, as kubectl does, and takes nothing.
func create(t *testing.T, text string) error {
	t.Helper()
	all, err := deploytest.Parse([]byte("apiVersion: operator.kairos.io/v1alpha1\n" + text))
	must(t, err)
	return cluster.admin.Create(t.Context(), all[0], client.DryRunAll, client.FieldValidation("Strict"))
}

func TestTheirManifests(t *testing.T) {
	for name, text := range theirs {
		if err := create(t, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, tc := range wrong {
		if err := create(t, strings.TrimSpace(tc[0])); err == nil || !strings.Contains(err.Error(), tc[1]) {
			t.Errorf("%s: %v, want %q", name, err, tc[1])
		}
	}
}

// Our own examples are what an API server takes.
func TestOurManifests(t *testing.T) {
	b, err := os.ReadFile("../../examples/kubernetes/rollout.yaml")
	must(t, err)
	all, err := deploytest.Parse(b)
	must(t, err)
	for _, o := range all {
		err := cluster.admin.Create(t.Context(), o, client.DryRunAll, client.FieldValidation("Strict"))
		if err != nil {
			t.Errorf("%s: %v", o.GetName(), err)
		}
	}
	// What an object has where its writer says nothing, and what people see of it.
	u := &v1alpha1.NodeOpUpgrade{}
	u.Namespace, u.Name, u.Spec.Image = "default", "defaults", "i"
	must(t, cluster.admin.Create(t.Context(), u, client.DryRunAll))
	if s := u.Spec; s.Pin != v1alpha1.PinRelease || s.Away != v1alpha1.AwayWait || *s.BackoffLimit != 3 ||
		s.StageTimeout.Hours() != 1 {
		t.Errorf("%+v", s)
	}
}
