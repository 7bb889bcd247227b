//go:build judge

// Command helm lints a chart, as `helm lint --strict` does, and prints what `helm template --namespace` makes of it.
//
// Usage: helm CHART NAMESPACE [VALUES.yaml]
package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader"
	"helm.sh/helm/v4/pkg/engine"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "helm:", err)
		os.Exit(1)
	}
}

func run(dir, namespace string, files []string) error {
	values := map[string]any{}
	for _, f := range files {
		v, err := common.ReadValuesFile(f)
		if err != nil {
			return err
		}
		maps.Copy(values, v)
	}
	l := action.NewLint()
	l.Strict, l.Namespace = true, namespace
	result := l.Run([]string{dir}, values)
	for _, m := range result.Messages {
		fmt.Fprintln(os.Stderr, m)
	}
	if len(result.Errors) > 0 {
		return errors.Join(result.Errors...)
	}
	chart, err := loader.Load(dir)
	if err != nil {
		return err
	}
	release := common.ReleaseOptions{Name: "kairos", Namespace: namespace, Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(chart, values, release, nil)
	if err != nil {
		return err
	}
	e := engine.Engine{Strict: true}
	made, err := e.Render(chart, all)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(made)) {
		fmt.Printf("---\n%s\n", made[name])
	}
	return nil
}
