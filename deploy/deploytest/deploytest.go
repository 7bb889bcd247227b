// Package deploytest reads the manifests of deploy for tests that give them to an API server.
package deploytest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Image is the one that the manifests name.
const Image = "registry.example/kairos-operator:latest"

// Objects returns what `kubectl apply -k` of the folder deploy applies, in its order, with an image in the place of
// [Image].
func Objects(deploy, image string) (all []*unstructured.Unstructured, err error) {
	b, err := os.ReadFile(filepath.Join(deploy, "kustomization.yaml"))
	if err != nil {
		return nil, err
	}
	var k struct{ Resources []string }
	if err := yaml.Unmarshal(b, &k); err != nil {
		return nil, fmt.Errorf("kustomization.yaml: %w", err)
	}
	for _, name := range k.Resources {
		b, err := os.ReadFile(filepath.Join(deploy, name))
		if err != nil {
			return nil, err
		}
		objects, err := Parse(bytes.ReplaceAll(b, []byte(Image), []byte(image)))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, objects...)
	}
	return all, nil
}

// Parse reads all objects of a text.
func Parse(b []byte) (all []*unstructured.Unstructured, err error) {
	r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(b)))
	for {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(doc, &o.Object); err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			all = append(all, o)
		}
	}
}
