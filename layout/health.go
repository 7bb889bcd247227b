package layout

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Labels that say when a release is healthy, see [Health].
const (
	// ImageLabelHealth names shipped checks, separated by spaces or commas.
	ImageLabelHealth = "io.kairos.health"
	// ImageLabelHealthNetwork is what the check network asks: https://…, http://…, or oci: and an image's
	// reference.
	ImageLabelHealthNetwork = "io.kairos.health.network"
	// ImageLabelSoak is how long a release on trial has to stay healthy before it is blessed, such as 2m.
	ImageLabelSoak = "io.kairos.soak"
)

// Shipped checks.
const (
	CheckNetwork = "network" // a default route, and an answer where there is an address to ask
	CheckKubelet = "kubelet" // the kubelet lives, and its node is Ready
	CheckUnits   = "units"   // no unit has failed
)

// HealthChecks lists the shipped checks.
func HealthChecks() []string { return []string{CheckNetwork, CheckKubelet, CheckUnits} }

// maxSoak is the longest soak time.
const maxSoak = 24 * time.Hour

// Health says when a system is healthy, beside what the programs in its health directories say.
type Health struct {
	Checks  []string      // of HealthChecks, in the order to ask
	Network string        // what the check network asks, or ""
	Soak    time.Duration // how long a release on trial has to stay healthy
}

// ParseHealth reads an image's labels. What is wrong is left out, and the error says it.
func ParseHealth(labels map[string]string) (h Health, err error) {
	words := strings.FieldsFunc(labels[ImageLabelHealth], func(r rune) bool { return r == ' ' || r == ',' })
	for _, name := range words {
		switch {
		case !slices.Contains(HealthChecks(), name):
			err = fmt.Errorf("label %s: there is no check %q: want some of %s",
				ImageLabelHealth, name, strings.Join(HealthChecks(), ", "))
		case !slices.Contains(h.Checks, name):
			h.Checks = append(h.Checks, name)
		}
	}
	if s := labels[ImageLabelHealthNetwork]; s != "" {
		if e := CheckNetworkAddress(s); e != nil {
			err = fmt.Errorf("label %s: %w", ImageLabelHealthNetwork, e)
		} else {
			h.Network = s
		}
	}
	if s := labels[ImageLabelSoak]; s != "" {
		soak, e := ParseSoak(s)
		if e != nil {
			err = fmt.Errorf("label %s: %w", ImageLabelSoak, e)
		}
		h.Soak = soak
	}
	return h, err
}

// ParseSoak reads a soak time.
func ParseSoak(s string) (time.Duration, error) {
	soak, err := time.ParseDuration(s)
	if err != nil || soak < 0 || soak > maxSoak {
		return 0, fmt.Errorf("soak time %q: want one such as 90s or 10m, at most %v", s, maxSoak)
	}
	return soak, nil
}

// CheckNetworkAddress says what is wrong with an address that the check network is to ask.
func CheckNetworkAddress(s string) error {
	for _, scheme := range []string{"https://", "http://", "oci:"} {
		rest, ok := strings.CutPrefix(s, scheme)
		if ok && rest != "" && rest[0] != '/' && !strings.ContainsAny(rest, " \t\n") {
			return nil
		}
	}
	return fmt.Errorf("address %q: want https://…, http://…, or oci: and an image's reference", s)
}
