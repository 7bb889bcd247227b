//go:build judge

// Command cel evaluates a ValidatingAdmissionPolicy as the API server does, with the same library: on standard input
// the policy and a list of requests, on standard output for each one why it is denied; empty: it is not.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
)

type expression struct {
	Name       string `json:"name"`
	Expression string `json:"expression"`
	Message    string `json:"message"`
}

type policy struct {
	Spec struct {
		MatchConditions []expression `json:"matchConditions"`
		Variables       []expression `json:"variables"`
		Validations     []expression `json:"validations"`
	} `json:"spec"`
}

type request struct {
	Request   any `json:"request"`
	Object    any `json:"object"`
	OldObject any `json:"oldObject"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "cel:", err)
		os.Exit(1)
	}
}

func run() error {
	var in struct {
		Policy   policy    `json:"policy"`
		Requests []request `json:"requests"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		return err
	}
	env, err := cel.NewEnv(cel.HomogeneousAggregateLiterals(), cel.EagerlyValidateDeclarations(true),
		cel.DefaultUTCTimeZone(true), cel.CrossTypeNumericComparisons(true), cel.OptionalTypes(),
		cel.Variable("request", cel.DynType), cel.Variable("object", cel.DynType),
		cel.Variable("oldObject", cel.DynType),
		cel.Variable("variables", cel.MapType(cel.StringType, cel.DynType)))
	if err != nil {
		return err
	}
	programs := map[string]cel.Program{}
	compile := func(all []expression) {
		for _, e := range all {
			ast, issues := env.Compile(e.Expression)
			if issues.Err() != nil {
				err = errors.Join(err, issues.Err())
				continue
			}
			p, wrong := env.Program(ast)
			programs[e.Expression], err = p, errors.Join(err, wrong)
		}
	}
	compile(in.Policy.Spec.MatchConditions)
	compile(in.Policy.Spec.Variables)
	compile(in.Policy.Spec.Validations)
	if err != nil {
		return err
	}
	out := make([]string, len(in.Requests))
	for i, r := range in.Requests {
		out[i] = judge(in.Policy, r, programs)
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// judge is what failurePolicy Fail makes of a request: an expression that cannot be evaluated denies it.
func judge(p policy, r request, programs map[string]cel.Program) string {
	variables := map[string]any{}
	vars := map[string]any{
		"request": r.Request, "object": r.Object, "oldObject": r.OldObject, "variables": variables,
	}
	for _, e := range p.Spec.MatchConditions {
		v, _, err := programs[e.Expression].Eval(vars)
		if err != nil {
			return err.Error()
		}
		if v != types.True {
			return ""
		}
	}
	for _, e := range p.Spec.Variables {
		v, _, err := programs[e.Expression].Eval(vars)
		if err != nil {
			continue // it is an error where it is used, as there it is without a value
		}
		variables[e.Name] = v
	}
	for _, e := range p.Spec.Validations {
		v, _, err := programs[e.Expression].Eval(vars)
		switch {
		case err != nil:
			return e.Message + ": " + err.Error()
		case v != types.True:
			return e.Message
		}
	}
	return ""
}
