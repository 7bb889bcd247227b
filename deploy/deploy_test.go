package deploy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

const image = "registry.example/kairos-operator:latest"

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// decode reads all objects of a text as an API server does, and refuses fields that their types do not have.
func decode(t *testing.T, b []byte) (all []runtime.Object) {
	t.Helper()
	s := runtime.NewScheme()
	err := errors.Join(clientscheme.AddToScheme(s), apiextensions.AddToScheme(s), v1alpha1.AddToScheme(s))
	if err != nil {
		t.Fatal(err)
	}
	d := serializer.NewCodecFactory(s, serializer.EnableStrict).UniversalDeserializer()
	r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(b)))
	for {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		o, _, err := d.Decode(doc, nil, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		all = append(all, o)
	}
}

// What kustomize makes of the folder is whole and safe.
func TestKustomize(t *testing.T) {
	kustomize := program(t, "kustomize")
	whole(t, decode(t, run(t, kustomize, nil, ".")), "kairos-system", image)
	// One place names the image, and all that name it follow.
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	k := strings.Replace(string(read(t, "kustomization.yaml")),
		"newName: registry.example/kairos-operator\n  newTag: latest", "newName: other.example/o\n  newTag: v2", 1)
	if err := os.WriteFile(dir+"/kustomization.yaml", []byte(k), 0o644); err != nil {
		t.Fatal(err)
	}
	whole(t, decode(t, run(t, kustomize, nil, dir)), "kairos-system", "other.example/o:v2")
}

// whole checks what a cluster gets.
func whole(t *testing.T, all []runtime.Object, namespace, image string) {
	t.Helper()
	var kinds []string
	accounts, subjects := map[string]bool{}, map[string]bool{}
	for _, o := range all {
		m, err := meta.Accessor(o)
		if err != nil {
			t.Fatal(err)
		}
		kind := o.GetObjectKind().GroupVersionKind().Kind
		kinds = append(kinds, kind+"/"+m.GetName())
		if ns := m.GetNamespace(); ns != "" && ns != namespace {
			t.Errorf("%s %s: in namespace %s", kind, m.GetName(), ns)
		}
		switch o := o.(type) {
		case *apps.Deployment:
			accounts[pod(t, o.Spec.Selector.MatchLabels, o.Spec.Template, image)] = true
			operatorPod(t, o.Spec.Template.Spec, image)
		case *apps.DaemonSet:
			accounts[pod(t, o.Spec.Selector.MatchLabels, o.Spec.Template, image)] = true
			agentPod(t, o.Spec.Template.Spec)
		case *rbac.ClusterRole:
			rules(t, o.Name, o.Rules)
		case *rbac.ClusterRoleBinding:
			for _, s := range o.Subjects {
				subjects[s.Name] = s.Namespace == namespace
			}
		}
	}
	for _, want := range []string{
		"CustomResourceDefinition/nodeops.operator.kairos.io",
		"CustomResourceDefinition/nodeopupgrades.operator.kairos.io",
		"ClusterRole/kairos-operator", "Role/kairos-operator", "ServiceAccount/kairos-operator",
		"ClusterRoleBinding/kairos-operator", "RoleBinding/kairos-operator", "Deployment/kairos-operator",
		"ServiceAccount/kairos-agent", "ClusterRole/kairos-agent", "ClusterRoleBinding/kairos-agent",
		"DaemonSet/kairos-agent",
		"ValidatingAdmissionPolicy/kairos-agent", "ValidatingAdmissionPolicyBinding/kairos-agent",
	} {
		if !slices.Contains(kinds, want) {
			t.Errorf("there is no %s in %q", want, kinds)
		}
	}
	for name := range accounts {
		if !subjects[name] || !slices.Contains(kinds, "ServiceAccount/"+name) {
			t.Errorf("the service account %s is missing, or has no rights", name)
		}
	}
	user := "'system:serviceaccount:" + namespace + ":kairos-agent'"
	for _, o := range all {
		if p, ok := o.(interface{ String() string }); ok && strings.Contains(p.String(), "system:serviceaccount:") &&
			!strings.Contains(p.String(), user) {
			t.Errorf("the policy is not for %s", user)
		}
	}
}

// pod checks what all our pods have in common, and returns their service account.
func pod(t *testing.T, selector map[string]string, p corev1.PodTemplateSpec, image string) string {
	t.Helper()
	name, s := p.Labels["app.kubernetes.io/name"], p.Spec
	if len(selector) != 1 || selector["app.kubernetes.io/name"] != name {
		t.Errorf("%s: its selector is %v", name, selector)
	}
	sc := s.SecurityContext
	if sc == nil || sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot || sc.RunAsUser == nil || *sc.RunAsUser == 0 ||
		sc.RunAsGroup == nil || *sc.RunAsGroup == 0 ||
		sc.SeccompProfile == nil || sc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s: its pod's security context is %+v", name, sc)
	}
	if s.HostNetwork || s.HostPID || s.HostIPC || len(s.InitContainers) > 0 || len(s.Containers) != 1 {
		t.Errorf("%s: it has a part of the host, or more than one container", name)
	}
	for _, c := range s.Containers {
		cs := c.SecurityContext
		if cs == nil || cs.AllowPrivilegeEscalation == nil || *cs.AllowPrivilegeEscalation || cs.Privileged != nil ||
			cs.ReadOnlyRootFilesystem == nil || !*cs.ReadOnlyRootFilesystem || cs.RunAsUser != nil ||
			cs.Capabilities == nil || len(cs.Capabilities.Add) > 0 ||
			!slices.Equal(cs.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("%s: its container's security context is %+v", name, cs)
		}
		if c.Image != image {
			t.Errorf("%s: its image is %s, want %s", name, c.Image, image)
		}
		if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
			t.Errorf("%s: nothing bounds it: %+v", name, c.Resources)
		}
	}
	return s.ServiceAccountName
}

func operatorPod(t *testing.T, s corev1.PodSpec, image string) {
	t.Helper()
	c := s.Containers[0]
	if len(s.Volumes) > 0 || c.LivenessProbe == nil || c.ReadinessProbe == nil ||
		!slices.Equal(c.Args, []string{"manager"}) {
		t.Errorf("the operator has volumes, no probes, or other arguments: %+v", s)
	}
	// After an orderly shutdown of the only node its next pod comes to that node, which the rollout has cordoned.
	if len(s.Tolerations) != 1 || s.Tolerations[0].Key != corev1.TaintNodeUnschedulable {
		t.Errorf("the operator's tolerations: %+v", s.Tolerations)
	}
	env := map[string]corev1.EnvVar{}
	for _, e := range c.Env {
		env[e.Name] = e
	}
	if env["KAIROS_OPERATOR_IMAGE"].Value != image {
		t.Errorf("helper pods have the image %q, want %s", env["KAIROS_OPERATOR_IMAGE"].Value, image)
	}
	for name, field := range map[string]string{"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace"} {
		if f := env[name].ValueFrom; f == nil || f.FieldRef == nil || f.FieldRef.FieldPath != field {
			t.Errorf("the operator's %s: %+v", name, env[name])
		}
	}
}

// agentPod checks that of the host an agent has one folder, to read.
func agentPod(t *testing.T, s corev1.PodSpec) {
	t.Helper()
	if len(s.Volumes) != 1 || s.Volumes[0].HostPath == nil || s.Volumes[0].HostPath.Path != "/run/kairos/status" {
		t.Fatalf("the agent's volumes: %+v", s.Volumes)
	}
	c := s.Containers[0]
	if len(c.VolumeMounts) != 1 || !c.VolumeMounts[0].ReadOnly || c.VolumeMounts[0].MountPath != "/run/kairos/status" {
		t.Errorf("the agent's mounts: %+v", c.VolumeMounts)
	}
	if f := c.Env[0]; f.Name != "NODE_NAME" || f.ValueFrom == nil ||
		f.ValueFrom.FieldRef.FieldPath != "spec.nodeName" {
		t.Errorf("the agent's node: %+v", c.Env)
	}
	group := fmt.Sprintf("chgrp %d next", *s.SecurityContext.RunAsGroup)
	if !strings.Contains(string(read(t, "node/kairos-status.service")), group) {
		t.Errorf("the node does not %s: the agent cannot read it", group)
	}
	// It is on each node, cordoned and tainted ones included: a rollout waits for its word.
	if len(s.Tolerations) != 1 || s.Tolerations[0].Operator != corev1.TolerationOpExists ||
		s.Tolerations[0].Key != "" {
		t.Errorf("the agent's tolerations: %+v", s.Tolerations)
	}
}

// rules checks that nobody has more rights than he may.
func rules(t *testing.T, name string, rules []rbac.PolicyRule) {
	t.Helper()
	for _, r := range rules {
		for _, s := range slices.Concat(r.Resources, r.Verbs, r.APIGroups) {
			if s == "*" || s == "secrets" || s == "escalate" || s == "impersonate" || s == "bind" {
				t.Errorf("%s: %+v", name, r)
			}
		}
		if name == "kairos-agent" && (!slices.Equal(r.Resources, []string{"nodes", "nodes/status"}) ||
			!slices.Equal(r.Verbs, []string{"patch"})) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}
