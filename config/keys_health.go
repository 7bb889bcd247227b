package config

import (
	"slices"

	"github.com/kairos-buildkit/kairos/layout"
)

// Health returns the block health: over what an image's labels have.
func (c *Config) Health(image layout.Health) layout.Health {
	v := c.top().Key("health")
	h := image
	for _, name := range v.Key("checks").Strings() {
		if !slices.Contains(h.Checks, name) {
			h.Checks = append(slices.Clone(h.Checks), name)
		}
	}
	if s := v.Key("network").Text(); s != "" {
		h.Network = s
	}
	if soak, err := layout.ParseSoak(v.Key("soak").Text()); err == nil {
		h.Soak = soak
	}
	return h
}

func healthKey() *Key {
	return object(
		"health",
		"When a boot is healthy, beside what the programs in /etc/kairos/health.d say and what the image's "+
			"labels have.",
		list("checks", "Shipped checks to turn on.", (&Key{}).oneOf(layout.HealthChecks()...)).differs(ours),
		key("network", tString,
			"What the check `network` asks: https://…, http://…, or oci: and an image's reference.").
			checked(checkNetwork).differs(ours),
		key("soak", tString, "How long a release on trial has to stay healthy, such as 2m, within its deadline.").
			checked(checkSoak).differs(ours),
	).differs(ours)
}

const ours = "the Kairos project has none"

func checkNetwork(v *Value) (message, suggestion string) {
	if err := layout.CheckNetworkAddress(v.Text()); err != nil {
		return err.Error(), ""
	}
	return "", ""
}

func checkSoak(v *Value) (message, suggestion string) {
	if _, err := layout.ParseSoak(v.Text()); err != nil {
		return err.Error(), ""
	}
	return "", ""
}
