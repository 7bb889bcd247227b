package operator

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Writes that have met others' are tried again after a second; anything else is an error, whatever is beside it.
func TestConflictsAreNoErrors(t *testing.T) {
	conflict := apierrors.NewConflict(corev1.Resource("nodes"), "n1", errors.New("changed"))
	other := apierrors.NewServiceUnavailable("away")
	node := fmt.Errorf("node n1: %w", conflict)
	for _, tc := range []struct {
		err   error
		again bool
	}{
		{conflict, true}, {node, true}, {errors.Join(node, conflict), true}, {errors.Join(node, nil), true},
		{other, false}, {errors.Join(node, other), false}, {errors.Join(other, node), false}, {nil, false},
	} {
		b := base{Options: Options{Settle: time.Second}}
		out, err := b.patient(func(context.Context, reconcile.Request) (reconcile.Result, error) {
			return reconcile.Result{RequeueAfter: time.Minute}, tc.err
		})(t.Context(), reconcile.Request{})
		again := err == nil && out.RequeueAfter == time.Second
		if again != tc.again || !again && !errors.Is(err, tc.err) {
			t.Errorf("%v: again %v, %v", tc.err, out, err)
		}
	}
}
