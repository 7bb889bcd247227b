package deploy

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// The chart installs what kustomize does, where and with the image that its user says. Its templates take nothing of
// Helm's but what is here.
func TestChart(t *testing.T) {
	values := map[string]any{}
	if err := yaml.UnmarshalStrict(read(t, "chart/values.yaml"), &values); err != nil {
		t.Fatal(err)
	}
	render := func() (all []runtime.Object) {
		files, err := filepath.Glob("chart/templates/*")
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, f := range files {
			p, err := template.New(f).Option("missingkey=error").Funcs(template.FuncMap{"toJson": func(v any) string {
				b, err := json.Marshal(v)
				if err != nil {
					t.Fatal(err)
				}
				return string(b)
			}}).Parse(string(read(t, f)))
			if err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			data := map[string]any{"Values": values, "Release": map[string]any{"Namespace": "fleet"}}
			if err := p.Execute(&b, data); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(b.String(), "kairos-system") {
				t.Errorf("%s: it is for the namespace kairos-system", f)
			}
			all = append(all, decode(t, b.Bytes())...)
		}
		return all
	}
	whole(t, render(), "fleet", image)
	values["image"], values["replicas"] = "other.example/o:v2", 1
	values["imagePullSecrets"] = []any{map[string]any{"name": "registry"}}
	all := render()
	whole(t, all, "fleet", "other.example/o:v2")
	secrets := 0
	for _, o := range all {
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		secrets += strings.Count(string(b), `"imagePullSecrets":[{"name":"registry"}]`)
	}
	if secrets != 2 {
		t.Errorf("%d pods have the pull secret", secrets)
	}
}
