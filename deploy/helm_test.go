//go:build fleet

package deploy

import (
	"os"
	"path/filepath"
	"testing"
)

// Helm itself finds nothing wrong with the chart, and makes of it what [TestChart] does.
func TestHelm(t *testing.T) {
	helm := program(t, "helm")
	whole(t, decode(t, run(t, helm, nil, "chart", "fleet")), "fleet", image)
	values := filepath.Join(t.TempDir(), "values.yaml")
	const other = "image: other.example/o:v2\nreplicas: 1\nimagePullSecrets: [{name: registry}]\n"
	if err := os.WriteFile(values, []byte(other), 0o644); err != nil {
		t.Fatal(err)
	}
	whole(t, decode(t, run(t, helm, nil, "chart", "fleet", values)), "fleet", "other.example/o:v2")
}
