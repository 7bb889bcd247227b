package config

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Pos is a place in a file. Line and Column begin with 1; 0 means that it is not known.
type Pos struct {
	File         string
	Line, Column int
}

func (p Pos) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.File == "":
		return "line " + strconv.Itoa(p.Line)
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}

// Value is one value of a config: a scalar, a list or a map, with its place. Values are not changed once they are
// made. A nil *Value is a value that is not there: all methods work on it.
type Value struct {
	node   *yaml.Node // what it was read from; of a map or list that was merged, the first one
	pos    Pos
	items  []*Value
	fields []field
}

// field is a key of a map with its value.
type field struct {
	name  string
	pos   Pos // of the key
	value *Value
}

// Pos returns where the value is; that of a value in a map is its key's place.
func (v *Value) Pos() Pos {
	if v == nil {
		return Pos{}
	}
	return v.pos
}

// IsMap, IsList, IsScalar and IsNull say of which kind the value is. Null is not a scalar.
func (v *Value) IsMap() bool    { return v != nil && v.node.Kind == yaml.MappingNode }
func (v *Value) IsList() bool   { return v != nil && v.node.Kind == yaml.SequenceNode }
func (v *Value) IsScalar() bool { return v != nil && v.node.Kind == yaml.ScalarNode && !v.IsNull() }
func (v *Value) IsNull() bool {
	return v != nil && v.node.Kind == yaml.ScalarNode && v.node.ShortTag() == "!!null"
}

// Text returns a scalar as it is written, without quotes; "" for all else.
func (v *Value) Text() string {
	if !v.IsScalar() {
		return ""
	}
	return v.node.Value
}

// Bool returns a boolean in any of YAML's spellings; false for all else.
func (v *Value) Bool() bool {
	b, _ := parseBool(v.Text())
	return b
}

// Int returns a whole number; 0 for all else.
func (v *Value) Int() int64 {
	n, err := strconv.ParseInt(v.Text(), 0, 64)
	if err != nil {
		return 0
	}
	return n
}

// Items returns the values of a list.
func (v *Value) Items() []*Value {
	if v == nil {
		return nil
	}
	return v.items
}

// Strings returns the texts of a list's scalars; one scalar is a list of one.
func (v *Value) Strings() []string {
	if v.IsScalar() {
		return []string{v.Text()}
	}
	var list []string
	for _, i := range v.Items() {
		if i.IsScalar() {
			list = append(list, i.Text())
		}
	}
	return list
}

// StringMap returns the scalars of a map.
func (v *Value) StringMap() map[string]string {
	if len(v.Keys()) == 0 {
		return nil
	}
	m := map[string]string{}
	for _, f := range v.fields {
		if f.value.IsScalar() || f.value.IsNull() {
			m[f.name] = f.value.Text()
		}
	}
	return m
}

// Keys returns the keys of a map, in their order.
func (v *Value) Keys() []string {
	if v == nil {
		return nil
	}
	keys := make([]string, len(v.fields))
	for i, f := range v.fields {
		keys[i] = f.name
	}
	return keys
}

// Key returns the value of a key of a map, nil where there is none.
func (v *Value) Key(name string) *Value {
	if v == nil {
		return nil
	}
	for _, f := range v.fields {
		if f.name == name {
			return f.value
		}
	}
	return nil
}

// Has says whether a map has a key; its value may be null.
func (v *Value) Has(name string) bool { return v.Key(name) != nil }

// Get returns the value at a path such as stages.boot[0].commands, nil where there is none. A key that has dots
// itself, as in stages.boot.after, is found, too.
func (v *Value) Get(path string) *Value {
	if path == "" || v == nil {
		return v
	}
	if path[0] == '[' {
		index, rest, ok := strings.Cut(path[1:], "]")
		i, err := strconv.Atoi(index)
		if !ok || err != nil || i < 0 || i >= len(v.items) {
			return nil
		}
		return v.items[i].Get(strings.TrimPrefix(rest, "."))
	}
	// The longest key first.
	for end := len(path); end > 0; end = strings.LastIndexAny(path[:end], ".[") {
		if found := v.Key(path[:end]); found != nil {
			if found := found.Get(strings.TrimPrefix(path[end:], ".")); found != nil {
				return found
			}
		}
	}
	return nil
}

// Without returns a map without a key.
func (v *Value) Without(name string) *Value {
	var fields []field
	for _, f := range v.fields {
		if f.name != name {
			fields = append(fields, f)
		}
	}
	return v.with(fields)
}

// with returns a map with other fields.
func (v *Value) with(fields []field) *Value {
	return &Value{node: v.node, pos: v.pos, fields: fields}
}

// list returns a list with other items.
func (v *Value) list(items []*Value) *Value {
	n := v.node
	if n.Kind != yaml.SequenceNode {
		n = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Line: n.Line, Column: n.Column}
	}
	return &Value{node: n, pos: v.pos, items: items}
}

// scalar returns a scalar with another text.
func (v *Value) scalar(tag, text string) *Value {
	if v.node.Value == text && v.node.ShortTag() == tag {
		return v
	}
	return &Value{
		node: &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text, Line: v.node.Line, Column: v.node.Column},
		pos:  v.pos,
	}
}

// newText returns a scalar of no file.
func newText(s string) *Value {
	return &Value{node: &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}}
}

// at returns the value with another place.
func (v *Value) at(p Pos) *Value {
	w := *v
	w.pos = p
	return &w
}

func (v *Value) kind() string {
	switch {
	case v.IsMap():
		return "a map"
	case v.IsList():
		return "a list"
	case v.IsNull():
		return "nothing"
	}
	text := []rune(v.Text())
	if len(text) > 40 {
		text = append(text[:40], '…')
	}
	return fmt.Sprintf("%q", string(text))
}

// YAML returns the value as YAML: of a value of a [Config], with each scalar as its type has it (booleans are true and
// false, modes are numbers), so that any YAML library decodes it into the same.
func (v *Value) YAML() ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	b, err := yaml.Marshal(v.yamlNode())
	if err != nil {
		return nil, fmt.Errorf("encode config: %w", err)
	}
	return b, nil
}

func (v *Value) yamlNode() *yaml.Node {
	n := &yaml.Node{Kind: v.node.Kind, Tag: v.node.ShortTag()}
	switch n.Kind {
	case yaml.MappingNode:
		for _, f := range v.fields {
			n.Content = append(
				n.Content,
				&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: f.name},
				f.value.yamlNode(),
			)
		}
	case yaml.SequenceNode:
		for _, i := range v.items {
			n.Content = append(n.Content, i.yamlNode())
		}
	default:
		n.Value = v.node.Value
		if n.Tag == "!!str" && strings.Contains(n.Value, "\n") {
			n.Style = yaml.LiteralStyle
		}
	}
	return n
}

// Any returns the value as encoding/json has it: map[string]any, []any, string, bool, a number, nil.
func (v *Value) Any() any {
	switch {
	case v == nil || v.IsNull():
		return nil
	case v.IsMap():
		m := make(map[string]any, len(v.fields))
		for _, f := range v.fields {
			m[f.name] = f.value.Any()
		}
		return m
	case v.IsList():
		l := make([]any, len(v.items))
		for i, item := range v.items {
			l[i] = item.Any()
		}
		return l
	}
	switch v.node.ShortTag() {
	case "!!bool":
		return v.Bool()
	case "!!int":
		if n, err := strconv.ParseInt(v.Text(), 0, 64); err == nil {
			return n
		}
	case "!!float":
		if f, err := strconv.ParseFloat(v.Text(), 64); err == nil && f-f == 0 { // JSON has no infinity
			return f
		}
	}
	return v.Text()
}
