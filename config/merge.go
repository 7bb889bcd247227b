package config

import "slices"

// Config is a cloud-config: one or more files, merged. Its zero value, and nil, are empty ones.
type Config struct {
	value  *Value
	report Report
}

// Merge merges files in their order, see the package's documentation.
func Merge(files ...*File) *Config {
	c := &Config{value: emptyMap("")}
	for _, f := range files {
		c.value = merge(c.value, f.value, root)
		c.report.add(f.report)
	}
	c.report.Errors = append(c.report.Errors, c.contradictions()...)
	c.report.sort()
	return c
}

// With returns the config with a later one merged over it. Its report is both reports.
func (c *Config) With(later *Config) *Config {
	out := &Config{value: merge(c.Value(), later.Value(), root)}
	out.report.add(c.Report())
	out.report.add(later.Report())
	out.report.sort()
	return out
}

// top is the config's map; nil, where there is none.
func (c *Config) top() *Value {
	if c == nil {
		return nil
	}
	return c.value
}

// Report says what becomes of each key of the files.
func (c *Config) Report() Report {
	if c == nil {
		return Report{}
	}
	return c.report
}

// Value returns the whole config: what is valid, merged, in the schema's names and spellings.
func (c *Config) Value() *Value {
	if c.top() == nil {
		return emptyMap("")
	}
	return c.value
}

// Get returns the value at a path such as stages.boot[0].commands, nil where there is none.
func (c *Config) Get(path string) *Value { return c.top().Get(path) }

// Empty says that there is nothing in it.
func (c *Config) Empty() bool { return len(c.top().Keys()) == 0 }

// merge puts b over a. The key, where it is known, says how lists are joined.
func merge(a, b *Value, k *Key) *Value {
	switch {
	case a == nil || a.IsNull():
		return b
	case a.IsMap() && b.IsMap():
		fields := slices.Clone(a.fields)
		for _, f := range b.fields {
			if i := indexOf(fields, f.name); i >= 0 {
				fields[i].value = merge(fields[i].value, f.value, k.child(f.name))
			} else {
				fields = append(fields, f)
			}
		}
		return a.with(fields)
	case a.IsList() && b.IsList():
		return a.list(joinLists(a.items, b.items, k))
	}
	return b
}

func joinLists(a, b []*Value, k *Key) []*Value {
	items := slices.Clip(a)
	if k != nil && k.Joined || len(a) > 0 && a[0].IsMap() {
		return append(items, b...)
	}
	have := map[string]bool{}
	for _, v := range a {
		if v.IsScalar() {
			have[v.Text()] = true
		}
	}
	for _, v := range b {
		if !v.IsScalar() || !have[v.Text()] {
			items = append(items, v)
		}
	}
	return items
}

// child returns what the schema says of a key of a map, nil where it says nothing.
func (k *Key) child(name string) *Key {
	switch {
	case k == nil:
		return nil
	case k.Type == tMap:
		return k.Elem
	}
	return k.find(name)
}
