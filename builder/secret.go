package builder

import (
	"context"
	"maps"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc"
)

// A cloud-config has passwords, and comes as an attribute of an exporter. BuildKit's controller logs these when it is
// told to debug: it gets notRecorded in their place, and the exporters get the configs by the request's context.
const (
	attrCloudConfig = "cloud-config"
	notRecorded     = "(not recorded)"
)

// hiddenConfigs are the cloud-configs of a request by the numbers of their exporters.
type hiddenConfigs map[int]string

type hiddenKey struct{}

// hideConfigs takes the cloud-configs out of a request before anything else sees it.
func hideConfigs(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	r, ok := req.(*controlapi.SolveRequest)
	if !ok {
		return next(ctx, req)
	}
	hidden := hiddenConfigs{}
	hide := func(id int, attrs map[string]string) {
		if attrs[attrCloudConfig] != "" {
			hidden[id], attrs[attrCloudConfig] = attrs[attrCloudConfig], notRecorded
		}
	}
	hide(0, r.ExporterAttrsDeprecated)
	for i, e := range r.Exporters {
		if e != nil {
			hide(i, e.Attrs)
		}
	}
	return next(context.WithValue(ctx, hiddenKey{}, hidden), req)
}

// withConfig returns an exporter's attributes with the cloud-config that was hidden.
func withConfig(ctx context.Context, id int, attrs map[string]string) map[string]string {
	hidden, _ := ctx.Value(hiddenKey{}).(hiddenConfigs)
	text, ok := hidden[id]
	if !ok || attrs[attrCloudConfig] != notRecorded {
		return attrs
	}
	attrs = maps.Clone(attrs)
	attrs[attrCloudConfig] = text
	return attrs
}
