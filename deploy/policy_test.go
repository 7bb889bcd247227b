package deploy

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	admission "k8s.io/api/admissionregistration/v1"
	"sigs.k8s.io/yaml"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// judge runs a program of testdata/judge: what it is made with is no dependency of ours.
func judge(t *testing.T, name string, in []byte, args ...string) []byte {
	t.Helper()
	return run(t, program(t, name), in, args...)
}

func program(t *testing.T, name string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	dir := filepath.Join("testdata", "judge")
	modules := filepath.Join(dir, name, "judge.mod") // of its own, where it takes much more than the others
	if _, err := os.Stat(modules); err != nil {
		modules = filepath.Join(dir, "judge.mod")
	}
	build := exec.Command("go", "build", "-modfile", modules, "-tags", "judge",
		"-ldflags", "-s -w", "-o", program,
		"./"+filepath.Join(dir, name))
	build.Env = append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

func run(t *testing.T, program string, in []byte, args ...string) []byte {
	t.Helper()
	c := exec.Command(program, args...)
	var out, errors bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(in), &out, &errors
	if err := c.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &errors)
	}
	return out.Bytes()
}

func agentPolicy(t *testing.T) admission.ValidatingAdmissionPolicy {
	t.Helper()
	var p admission.ValidatingAdmissionPolicy
	for _, o := range decode(t, read(t, "agent/policy.yaml")) {
		if q, ok := o.(*admission.ValidatingAdmissionPolicy); ok {
			p = *q
		}
	}
	if p.Spec.FailurePolicy == nil || *p.Spec.FailurePolicy != admission.Fail {
		t.Fatal("the policy is missing, or lets pass what it cannot judge")
	}
	return p
}

const agentsNode = `
metadata:
  name: n1
  resourceVersion: "7"
  labels: {kubernetes.io/hostname: n1, kairos.io/managed: "true"}
  annotations: {node.alpha.kubernetes.io/ttl: "0", operator.kairos.io/rollout: "{}"}
  finalizers: [example.com/hold]
spec:
  providerID: x://1
  taints: [{key: a, effect: NoSchedule}]
status:
  capacity: {cpu: "2", pods: 110}
  nodeInfo: {bootID: b}
  conditions:
  - {type: Ready, status: "True", lastHeartbeatTime: "2026-01-01T00:00:00Z"}
  - {type: KairosRelease, status: "False", reason: OnTrial}
`

// What the policy lets an agent do, and what it does not: the expressions are evaluated by the API server's library.
func TestAgentIsHeldToItsNode(t *testing.T) {
	type object = map[string]any
	type change func(o object)
	at := func(o object, path ...string) object {
		for _, p := range path {
			if o[p] == nil {
				o[p] = object{}
			}
			o = o[p].(object)
		}
		return o
	}
	cases := []struct {
		what   string
		node   string // of the pod's token; "": none
		change change
		denied string // a part of the message; "": it is not
		user   string
		verb   string
	}{
		{what: "its report", node: "n1", change: func(o object) {
			at(o, "metadata", "annotations")["operator.kairos.io/report"] = "{}"
			at(o, "metadata", "annotations")["kairos.io/version"] = "v2"
			at(o, "metadata", "labels")["kairos.io/boot-state"] = "active"
			at(o, "metadata", "labels")["operator.kairos.io/release"] = "aaaaaaaaaaaa"
			at(o, "metadata", "labels")["operator.kairos.io/trial"] = "false"
			at(o, "metadata")["resourceVersion"] = "8"
		}},
		{what: "a label of its own goes", node: "n1", change: func(o object) {
			delete(at(o, "metadata", "labels"), "kairos.io/managed")
		}},
		{what: "its condition", node: "n1", change: func(o object) {
			c := at(o, "status")["conditions"].([]any)[1].(object)
			c["status"], c["reason"] = "True", "Blessed"
		}},
		{what: "its first condition", node: "n1", change: func(o object) {
			all := at(o, "status")["conditions"].([]any)
			at(o, "status")["conditions"] = []any{all[1], all[0]}
		}},
		{what: "nothing", node: "n1", change: func(object) {}},
		{what: "another node", node: "n2", change: func(object) {}, denied: "no other"},
		{what: "a token of no pod", change: func(object) {}, denied: "no other"},
		{what: "another service account", user: "system:serviceaccount:default:x", change: func(o object) {
			at(o, "spec")["unschedulable"] = true
		}},
		{what: "another label", node: "n1", change: func(o object) {
			at(o, "metadata", "labels")["node-role.kubernetes.io/control-plane"] = ""
		}, denied: "own labels"},
		{what: "another label changes", node: "n1", change: func(o object) {
			at(o, "metadata", "labels")["kubernetes.io/hostname"] = "n2"
		}, denied: "own labels"},
		{what: "all labels go", node: "n1", change: func(o object) { delete(at(o, "metadata"), "labels") },
			denied: "own labels"},
		{what: "the rollout's record", node: "n1", change: func(o object) {
			at(o, "metadata", "annotations")["operator.kairos.io/rollout"] = `{"step":"Blessed"}`
		}, denied: "own annotations"},
		{what: "the record goes", node: "n1", change: func(o object) {
			delete(at(o, "metadata", "annotations"), "operator.kairos.io/rollout")
		}, denied: "own annotations"},
		{what: "who has cordoned", node: "n1", change: func(o object) {
			at(o, "metadata", "annotations")["operator.kairos.io/cordoned-by"] = "x"
		}, denied: "own annotations"},
		{what: "cordon", node: "n1", change: func(o object) { at(o, "spec")["unschedulable"] = true }, denied: "spec"},
		{what: "taints", node: "n1", change: func(o object) { delete(at(o, "spec"), "taints") }, denied: "spec"},
		{what: "no spec", node: "n1", change: func(o object) { delete(o, "spec") }, denied: "spec"},
		{what: "finalizers", node: "n1", change: func(o object) { delete(at(o, "metadata"), "finalizers") },
			denied: "finalizers"},
		{what: "owners", node: "n1", change: func(o object) {
			at(o, "metadata")["ownerReferences"] = []any{object{"name": "x"}}
		}, denied: "owners"},
		{what: "Ready", node: "n1", change: func(o object) {
			at(o, "status")["conditions"].([]any)[0].(object)["status"] = "False"
		}, denied: "KairosRelease"},
		{what: "another condition", node: "n1", change: func(o object) {
			at(o, "status")["conditions"] = append(at(o, "status")["conditions"].([]any),
				object{"type": "DiskPressure"})
		}, denied: "KairosRelease"},
		{what: "no conditions", node: "n1", change: func(o object) { delete(at(o, "status"), "conditions") },
			denied: "KairosRelease"},
		{what: "capacity", node: "n1", change: func(o object) { at(o, "status", "capacity")["cpu"] = "64" },
			denied: "KairosRelease"},
		{what: "a field of the status that is new to us", node: "n1", change: func(o object) {
			at(o, "status")["futureField"] = "x"
		}, denied: "KairosRelease"},
		{what: "no status", node: "n1", change: func(o object) { delete(o, "status") }, denied: "KairosRelease"},
		{what: "a new Node", node: "n1", verb: "CREATE", change: func(object) {}, denied: "neither"},
		{what: "its Node goes", node: "n1", verb: "DELETE", change: func(object) {}, denied: "neither"},
	}
	var in struct {
		Policy   any      `json:"policy"`
		Requests []object `json:"requests"`
	}
	in.Policy = agentPolicy(t)
	for _, tc := range cases {
		var before, after object
		for _, o := range []*object{&before, &after} {
			if err := yaml.Unmarshal([]byte(agentsNode), o); err != nil {
				t.Fatal(err)
			}
		}
		tc.change(after)
		user := object{"username": "system:serviceaccount:kairos-system:kairos-agent"}
		if tc.user != "" {
			user["username"] = tc.user
		}
		if tc.node != "" {
			user["extra"] = object{"authentication.kubernetes.io/node-name": []string{tc.node}}
		}
		r := object{"object": after, "oldObject": before}
		switch tc.verb {
		case "CREATE":
			r["oldObject"] = nil
		case "DELETE":
			r["object"] = nil
		case "":
			tc.verb = "UPDATE"
		}
		r["request"] = object{"name": "n1", "operation": tc.verb, "userInfo": user}
		in.Requests = append(in.Requests, r)
	}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var denied []string
	if err := json.Unmarshal(judge(t, "cel", b), &denied); err != nil || len(denied) != len(cases) {
		t.Fatal(denied, err)
	}
	for i, tc := range cases {
		if (denied[i] == "") != (tc.denied == "") || !strings.Contains(denied[i], tc.denied) {
			t.Errorf("%s: denied %q, want %q", tc.what, denied[i], tc.denied)
		}
		if strings.Contains(denied[i], "no such") && tc.verb == "" && tc.what != "no spec" {
			t.Errorf("%s: it is denied because it cannot be judged: %s", tc.what, denied[i])
		}
	}
}

// The policy names what the agent writes, all of it and nothing else.
func TestPolicyNamesTheAgentsKeys(t *testing.T) {
	quoted := func(names ...string) string { return "['" + strings.Join(names, "', '") + "']" }
	want := map[string]string{
		"labels": quoted(v1alpha1.LabelManaged, v1alpha1.LabelBootState, v1alpha1.LabelRelease,
			v1alpha1.LabelTrial),
		"annotations": quoted(v1alpha1.AnnotationVersion, v1alpha1.AnnotationReport),
	}
	p := agentPolicy(t)
	for _, v := range p.Spec.Variables {
		if w, ok := want[v.Name]; ok && v.Expression != w {
			t.Errorf("%s: %s, want %s", v.Name, v.Expression, w)
		}
		if strings.HasSuffix(v.Name, "Conditions") &&
			!strings.Contains(v.Expression, "'"+v1alpha1.ConditionRelease+"'") {
			t.Errorf("%s: %s", v.Name, v.Expression)
		}
	}
}
