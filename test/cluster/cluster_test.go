//go:build vm && fleet

package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kairos-buildkit/kairos/deploy/deploytest"
	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
)

const system = "kairos-system"

// fleet is a cluster whose nodes are virtual machines.
type fleet struct {
	*control
	registry server
	base     string // OCI layout of v1, which the nodes run
	machines map[string]*vmtest.VM
}

// startFleet returns a cluster of so many nodes that run v1, with operator and agents.
func startFleet(t *testing.T, nodes int) *fleet {
	t.Helper()
	p := choosePorts(t)
	files, err := newAuthority(workDir)
	must(t, err)
	f := &fleet{base: nodeImage(t), machines: map[string]*vmtest.VM{}}
	disk := installed(t, f.base, p, files)
	f.registry = startRegistry(t, p.registry)
	pause := pauseImage(t)
	for _, tag := range []string{"3.8", "3.10"} { // what Debian's containerd and newer ones name
		f.registry.push(t, pause, "pause:"+tag)
	}
	f.control = startControl(t, p.api, files)
	f.join(t)
	f.deploy(t, f.registry.push(t, imageIn(t, operatorImage), "kairos-operator:test"))
	var all []*vmtest.VM
	for range nodes {
		all = append(all, machine(t, disk))
	}
	t.Cleanup(func() { f.explain(t) })
	for _, vm := range all {
		name := vm.Expect(`(node-[0-9a-f]{8}) login: `, vmtest.BootTimeout)[1]
		t.Log(name, "starts")
		f.machines[name] = vm
		vm.RootShell()
	}
	for name := range f.machines {
		f.up(t, name, "v1")
	}
	return f
}

// join lets machines with the token become nodes.
func (f *fleet) join(t *testing.T) {
	t.Helper()
	objects := []client.Object{&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-" + tokenID},
		Type:       "bootstrap.kubernetes.io/token",
		StringData: map[string]string{"token-id": tokenID, "token-secret": tokenSecret,
			"usage-bootstrap-authentication": "true"},
	}}
	// Those of kubeadm.
	for _, b := range [][2]string{
		{"system:node-bootstrapper", "system:bootstrappers"},
		{"system:certificates.k8s.io:certificatesigningrequests:nodeclient", "system:bootstrappers"},
		{"system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes"},
	} {
		objects = append(objects, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "join:" + b[0]},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: b[0]},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: b[1]}},
		})
	}
	for _, o := range objects {
		must(t, f.admin.Create(t.Context(), o))
	}
}

// deploy does what `kubectl apply -k deploy` does.
func (f *fleet) deploy(t *testing.T, image string) {
	t.Helper()
	objects, err := deploytest.Objects("../../deploy", image)
	must(t, err)
	for _, o := range objects {
		err := f.admin.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("kubectl"))
		if err != nil {
			t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

// up waits until a node is Ready, and reports that it runs a version which is blessed.
func (f *fleet) up(t *testing.T, name, version string) {
	t.Helper()
	eventually(t, 15*time.Minute, name+" is Ready", func() (bool, string) {
		n, err := f.node(t, name)
		if err != nil {
			return false, err.Error()
		}
		c := condition(n, corev1.NodeReady)
		return c.Status == corev1.ConditionTrue, c.Message
	})
	eventually(t, 10*time.Minute, name+" runs "+version, func() (bool, string) {
		n, err := f.node(t, name)
		if err != nil {
			return false, err.Error()
		}
		r, err := v1alpha1.ParseReport(n.Annotations)
		if r == nil || err != nil {
			return false, fmt.Sprint(n.Labels, condition(n, v1alpha1.ConditionRelease).Message, err)
		}
		// The agent writes the condition last.
		return r.BootID == n.Status.NodeInfo.BootID && r.Booted != nil && r.Booted.Version == version &&
				r.Booted.Blessed && condition(n, v1alpha1.ConditionRelease).Status == corev1.ConditionTrue,
			n.Annotations[v1alpha1.AnnotationReport] + condition(n, v1alpha1.ConditionRelease).Message
	})
}

func (f *fleet) node(t *testing.T, name string) (*corev1.Node, error) {
	return f.clients.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
}

func condition(n *corev1.Node, kind corev1.NodeConditionType) corev1.NodeCondition {
	for _, c := range n.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.NodeCondition{}
}

// explain logs, where a test has failed, what cluster and nodes say.
func (f *fleet) explain(t *testing.T) {
	if !t.Failed() {
		return
	}
	ctx := context.WithoutCancel(t.Context())
	if all, err := f.clients.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); err == nil {
		for _, n := range all.Items {
			t.Logf("node %s: unschedulable %v, annotations %v, conditions %+v", n.Name, n.Spec.Unschedulable,
				n.Annotations, n.Status.Conditions)
		}
	}
	if all, err := f.clients.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); err == nil {
		for _, p := range all.Items {
			t.Logf("pod %s/%s on %s: %s %s %+v", p.Namespace, p.Name, p.Spec.NodeName, p.Status.Phase,
				p.Status.Message, p.Status.ContainerStatuses)
		}
	}
	if all, err := f.clients.CoreV1().Events("").List(ctx, metav1.ListOptions{}); err == nil {
		for _, e := range all.Items[max(0, len(all.Items)-60):] {
			t.Logf("event %s %s: %s: %s", e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, e.Message)
		}
	}
}
