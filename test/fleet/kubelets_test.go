//go:build fleet

package fleet

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// kubelets run the pods of all nodes that are played, and Jobs as a controller-manager does.
type kubelets struct {
	ctx  context.Context
	pods cache.Indexer
	jobs cache.Indexer
	work workqueue.TypedRateLimitingInterface[task]

	mu       sync.Mutex
	machines map[string]*machine
}

// task is a pod or a Job to look at.
type task struct {
	job bool
	key string
}

func newKubelets(ctx context.Context) *kubelets {
	factory := informers.NewSharedInformerFactory(cluster.clients, 0)
	pods, jobs := factory.Core().V1().Pods().Informer(), factory.Batch().V1().Jobs().Informer()
	k := &kubelets{
		ctx: ctx, pods: pods.GetIndexer(), jobs: jobs.GetIndexer(), machines: map[string]*machine{},
		work: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[task](50*time.Millisecond, time.Second)),
	}
	add := func(informer cache.SharedIndexInformer, job bool) {
		enqueue := func(o any) {
			if key, err := cache.MetaNamespaceKeyFunc(o); err == nil {
				k.work.Add(task{job, key})
			}
		}
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: enqueue, UpdateFunc: func(_, o any) { enqueue(o) },
		})
		if err != nil {
			panic(err) // an informer that has not been started takes handlers
		}
	}
	add(pods, false)
	add(jobs, true)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	for range 32 {
		go k.worker()
	}
	context.AfterFunc(ctx, k.work.ShutDown)
	return k
}

func (k *kubelets) worker() {
	for {
		t, over := k.work.Get()
		if over {
			return
		}
		do := k.pod
		if t.job {
			do = k.job
		}
		if err := do(t.key); err != nil && k.ctx.Err() == nil {
			k.work.AddRateLimited(t) // as the API server is away, or has another version
		} else {
			k.work.Forget(t)
		}
		k.work.Done(t)
	}
}

func (k *kubelets) machine(name string) *machine {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.machines[name]
}

// pod does with a pod what its node's kubelet does.
func (k *kubelets) pod(key string) error {
	o, ok, err := k.pods.GetByKey(key)
	if !ok || err != nil {
		return err
	}
	p := o.(*corev1.Pod)
	m := k.machine(p.Spec.NodeName)
	switch {
	case m == nil:
		return nil
	case p.DeletionTimestamp != nil:
		now := int64(0)
		return client.IgnoreNotFound(cluster.clients.CoreV1().Pods(p.Namespace).Delete(k.ctx, p.Name,
			metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(p.UID))}))
	case p.Status.Phase == corev1.PodSucceeded, p.Status.Phase == corev1.PodFailed:
		return nil
	case p.Labels[v1alpha1.LabelStep] == "":
		if p.Status.Phase == corev1.PodRunning {
			return nil
		}
		return k.says(p, corev1.PodStatus{Phase: corev1.PodRunning})
	}
	status, err := m.run(k.ctx, p)
	if err != nil {
		return err
	}
	return k.says(p, status)
}

// says writes a pod's status.
func (k *kubelets) says(p *corev1.Pod, s corev1.PodStatus) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.UID}, "status": s})
	if err != nil {
		return err
	}
	_, err = cluster.clients.CoreV1().Pods(p.Namespace).Patch(k.ctx, p.Name, types.StrategicMergePatchType, patch,
		metav1.PatchOptions{}, "status")
	return client.IgnoreNotFound(err)
}

// job makes a Job's pod, and says how the Job has ended when that has.
func (k *kubelets) job(key string) error {
	o, ok, err := k.jobs.GetByKey(key)
	if !ok || err != nil {
		return err
	}
	j := o.(*batchv1.Job)
	m := k.machine(j.Spec.Template.Spec.NodeName)
	if m == nil || j.DeletionTimestamp != nil || j.Status.CompletionTime != nil {
		return nil
	}
	name := j.Name + "-0"
	p, err := cluster.clients.CoreV1().Pods(j.Namespace).Get(k.ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		p = &corev1.Pod{ObjectMeta: *j.Spec.Template.ObjectMeta.DeepCopy(), Spec: *j.Spec.Template.Spec.DeepCopy()}
		p.Namespace, p.Name = j.Namespace, name
		p.OwnerReferences = []metav1.OwnerReference{
			*metav1.NewControllerRef(j, batchv1.SchemeGroupVersion.WithKind("Job")),
		}
		_, err = cluster.clients.CoreV1().Pods(j.Namespace).Create(k.ctx, p, metav1.CreateOptions{})
		k.work.AddAfter(task{true, key}, 200*time.Millisecond)
		return err
	}
	if err != nil {
		return err
	}
	now := metav1.Now()
	status := j.Status.DeepCopy()
	status.StartTime = &j.CreationTimestamp
	switch p.Status.Phase {
	case corev1.PodSucceeded:
		status.Succeeded, status.CompletionTime = 1, &now
		for _, c := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete} {
			status.Conditions = append(status.Conditions, batchv1.JobCondition{Type: c, Status: corev1.ConditionTrue,
				LastProbeTime: now, LastTransitionTime: now})
		}
	case corev1.PodFailed:
		status.Failed = 1
		for _, c := range []batchv1.JobConditionType{batchv1.JobFailureTarget, batchv1.JobFailed} {
			status.Conditions = append(status.Conditions, batchv1.JobCondition{Type: c, Status: corev1.ConditionTrue,
				Reason: batchv1.JobReasonBackoffLimitExceeded, LastProbeTime: now, LastTransitionTime: now})
		}
	default:
		k.work.AddAfter(task{true, key}, 200*time.Millisecond)
		return nil
	}
	j = j.DeepCopy()
	j.Status = *status
	_, err = cluster.clients.BatchV1().Jobs(j.Namespace).UpdateStatus(k.ctx, j, metav1.UpdateOptions{})
	return client.IgnoreNotFound(err)
}
