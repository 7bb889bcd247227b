package config

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The documentation says what the schema says.
func TestDocumentation(t *testing.T) {
	b, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(b), string(Markdown())); d != "" {
		t.Errorf("docs/configuration.md is not what the schema says: run go generate ./config\n%s", d)
	}
}

func TestJSONSchema(t *testing.T) {
	var s struct {
		Properties map[string]any
	}
	if err := json.Unmarshal(JSONSchema(), &s); err != nil {
		t.Fatal(err)
	}
	for _, name := range Schema().names() {
		if s.Properties[name] == nil {
			t.Errorf("%s is not in it", name)
		}
	}
}
