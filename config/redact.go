package config

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// WithoutSecrets returns the whole config for somebody else's eyes: what may hold a secret is replaced by how long it
// is. These are the values that the schema says so of, all that a step or a command says, what files contain, and
// whatever cloud-init alone knows.
func (c *Config) WithoutSecrets() *Value { return redact(c.Value(), root) }

// Kept returns the config for a copy that a node keeps: without secrets, but that users have the hashes of their
// passwords.
func (c *Config) Kept(hashes map[string]string) *Value {
	v := c.WithoutSecrets()
	var fields []field
	for _, f := range v.fields {
		if f.name == "users" && f.value.IsList() {
			items := slices.Clone(f.value.items)
			for i := range items {
				items[i] = hashedUser(items[i], hashes)
			}
			f.value = f.value.list(items)
		}
		fields = append(fields, f)
	}
	return v.with(fields)
}

func hashedUser(user *Value, hashes map[string]string) *Value {
	var fields []field
	for _, f := range user.fields {
		switch f.name {
		case "passwd", "plain_text_passwd", "hashed_passwd":
			if hash := hashes[user.Key("name").Text()]; hash != "" && !slices.ContainsFunc(fields, isHashField) {
				fields = append(fields, field{"hashed_passwd", f.pos, f.value.scalar("!!str", hash)})
			}
		default:
			fields = append(fields, f)
		}
	}
	return user.with(fields)
}

func isHashField(f field) bool { return f.name == "hashed_passwd" }

func redact(v *Value, k *Key) *Value {
	switch {
	case v == nil || v.IsNull():
		return v
	case k == nil || k.Secret || k.Status == CloudInit:
		return removed(v)
	case v.IsMap():
		var fields []field
		for _, f := range v.fields {
			fields = append(fields, field{f.name, f.pos, redact(f.value, k.child(f.name))})
		}
		return v.with(fields)
	case v.IsList():
		items := slices.Clone(v.items)
		for i := range items {
			elem := k.Elem
			if elem == nil { // of a type that a list may stand for: strings
				elem = &Key{}
			}
			items[i] = redact(items[i], elem)
		}
		return v.list(items)
	}
	return v
}

// removed keeps the names of a map, and of all else how much there was.
func removed(v *Value) *Value {
	text := ""
	switch {
	case v.IsMap():
		var fields []field
		for _, f := range v.fields {
			fields = append(fields, field{f.name, f.pos, removed(f.value)})
		}
		return v.with(fields)
	case v.IsList():
		text = fmt.Sprintf("(removed: %d items)", len(v.items))
	default:
		text = fmt.Sprintf("(removed: %d characters)", len([]rune(v.Text())))
	}
	return &Value{node: &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}, pos: v.pos}
}
