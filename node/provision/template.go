package provision

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
)

// templated renders a template with sprig's functions and the values that yip has for its templates: .MachineID,
// .UUID, .Random, .ProtectedID, and what is known of the machine below .Values.
func (s *System) templated(text string) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	if s.vars == nil {
		s.vars = s.variables()
	}
	return render(text, s.vars)
}

func render(text string, vars any, options ...string) (string, error) {
	t, err := template.New("").Funcs(sprig.TxtFuncMap()).Funcs(template.FuncMap{"required": required}).
		Option(options...).Parse(text)
	if err != nil {
		return "", fmt.Errorf("template: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, vars); err != nil {
		return "", fmt.Errorf("template: %w", err)
	}
	return b.String(), nil
}

// renderedIfKnown is rendered for what may be another program's template, such as a chart of Helm: one with a value
// that the machine does not have stays as it is.
func (s *System) renderedIfKnown(text string) string {
	if !strings.Contains(text, "{{") {
		return text
	}
	if s.vars == nil {
		s.vars = s.variables()
	}
	if out, err := render(text, s.vars, "missingkey=error"); err == nil {
		return out
	}
	return text
}

// required is the template function that fails where there is no value, as in Helm.
func required(message string, value any) (any, error) {
	if value == nil || value == "" {
		return nil, errors.New(message)
	}
	return value, nil
}

// Address renders a template that is an address, such as kairos.config_url= with the machine's serial number. A value
// is escaped, and one that the machine does not have is an error: another address may be another machine's.
func (s *System) Address(text string) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	return render(text, escaped(s.variables()), "missingkey=error")
}

// escaped has each string escaped as in a query.
func escaped(v any) any {
	switch v := v.(type) {
	case string:
		return url.QueryEscape(v)
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			out[k] = escaped(x)
		}
		return out
	case []map[string]any:
		var out []any
		for _, x := range v {
			out = append(out, escaped(x))
		}
		return out
	}
	return v
}

// rendered is a template's text, or the text itself where it is none: a command may have braces of its own.
func (s *System) rendered(text string) string {
	if out, err := s.templated(text); err == nil {
		return out
	}
	return text
}

// text is a small file's content, "" where it cannot be read.
func (s *System) text(name string) string {
	b, err := s.root.ReadFile(name, 64<<10)
	if err != nil {
		return ""
	}
	return string(b)
}

func (s *System) line(name string) string { return strings.TrimSpace(s.text(name)) }
