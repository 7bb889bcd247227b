package console

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

var nodeList = schema.GroupVersionKind{Version: "v1", Kind: "NodeList"}

// Upgrade has a rollout be what change makes of its spec: a new one, or the one that is there. It neither stays
// paused nor goes back, unless change says so.
func Upgrade(ctx context.Context, c client.Client, key client.ObjectKey, image string,
	change func(*v1alpha1.NodeOpUpgradeSpec)) (created bool, err error) {
	u := &v1alpha1.NodeOpUpgrade{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	err = c.Get(ctx, key, u)
	if client.IgnoreNotFound(err) != nil {
		return false, err
	}
	created = apierrors.IsNotFound(err)
	before := u.DeepCopy()
	u.Spec.Image, u.Spec.Paused, u.Spec.Rollback = image, false, false
	change(&u.Spec)
	if created {
		return true, c.Create(ctx, u)
	}
	return false, c.Patch(ctx, u, client.MergeFrom(before))
}

// Pause has a rollout begin with no further node, or goes on with it.
func Pause(ctx context.Context, c client.Client, key client.ObjectKey, paused bool) error {
	return set(ctx, c, key, func(s *v1alpha1.NodeOpUpgradeSpec) { s.Paused = paused })
}

// Rollback has each node that a rollout has upgraded go back to the release that it ran before.
func Rollback(ctx context.Context, c client.Client, key client.ObjectKey) error {
	return set(ctx, c, key, func(s *v1alpha1.NodeOpUpgradeSpec) { s.Rollback, s.Paused = true, false })
}

func set(ctx context.Context, c client.Client, key client.ObjectKey, change func(*v1alpha1.NodeOpUpgradeSpec)) error {
	var u v1alpha1.NodeOpUpgrade
	if err := c.Get(ctx, key, &u); err != nil {
		return err
	}
	before := u.DeepCopy()
	change(&u.Spec)
	return c.Patch(ctx, &u, client.MergeFrom(before))
}
