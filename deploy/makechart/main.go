// Command makechart makes the Helm chart from the manifests for kustomize: the same text, with what a chart's user
// chooses in the places of what kustomize's user chooses. A place that is not found is an error.
//
// Usage: makechart DEPLOY OUT
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	namespace = "kairos-system"
	image     = "registry.example/kairos-operator:latest"
)

// rule puts one text in the place of another one, wherever that is; at least once in all templates.
type rule struct{ from, to string }

var rules = []rule{
	{"namespace: " + namespace, "namespace: {{ .Release.Namespace }}"},
	{"system:serviceaccount:" + namespace + ":", "system:serviceaccount:{{ .Release.Namespace }}:"},
	{image, "{{ .Values.image }}"},
	{"  replicas: 2\n", "  replicas: {{ .Values.replicas }}\n"},
	{"      securityContext:\n        runAsNonRoot", "{{- with .Values.imagePullSecrets }}\n" +
		"      imagePullSecrets: {{ toJson . }}\n{{- end }}\n      securityContext:\n        runAsNonRoot"},
	// Objects of these kinds are to outlive the chart: with a definition all that it defines goes.
	{"kind: CustomResourceDefinition\nmetadata:\n  annotations:\n",
		"kind: CustomResourceDefinition\nmetadata:\n  annotations:\n    helm.sh/resource-policy: keep\n"},
}

const chart = `apiVersion: v2
name: kairos-operator
description: Rolls releases of Kairos out to the nodes of a cluster, and stops by what they prove
type: application
version: 0.1.0
kubeVersion: ">=1.30.0-0"
`

const values = `# Operator, agents and helper pods have this image.
image: ` + image + `
imagePullSecrets: [] # such as [{name: registry}]
# Of the operator; one works at a time.
replicas: 2
`

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: makechart DEPLOY OUT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "makechart:", err)
		os.Exit(1)
	}
}

func run(deploy, out string) error {
	names, err := sources(deploy)
	if err != nil {
		return err
	}
	used := make([]bool, len(rules))
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(deploy, name))
		if err != nil {
			return err
		}
		text := string(b)
		if strings.Contains(text, "{{") {
			return fmt.Errorf("%s: it has braces that Helm would read", name)
		}
		for i, r := range rules {
			used[i] = used[i] || strings.Contains(text, r.from)
			text = strings.ReplaceAll(text, r.from, r.to)
		}
		if err := write(text, out, "templates", strings.ReplaceAll(name, "/", "-")); err != nil {
			return err
		}
	}
	for i, r := range rules {
		if !used[i] {
			return fmt.Errorf("no manifest has %q", r.from)
		}
	}
	return errors.Join(write(chart, out, "Chart.yaml"), write(values, out, "values.yaml"))
}

// sources are kustomize's resources, but for the namespace: Helm makes that.
func sources(deploy string) (names []string, err error) {
	b, err := os.ReadFile(filepath.Join(deploy, "kustomization.yaml"))
	if err != nil {
		return nil, err
	}
	_, list, _ := strings.Cut(string(b), "\nresources:\n")
	for line := range strings.Lines(list) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "- ")
		if !ok {
			return nil, fmt.Errorf("kustomization.yaml: %q is no resource", line)
		}
		if name != "namespace.yaml" {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("kustomization.yaml names no resources at its end")
	}
	return names, nil
}

func write(text string, path ...string) error {
	name := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(text), 0o644)
}
