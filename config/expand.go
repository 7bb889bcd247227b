package config

import "strings"

// expand writes dotted keys out: in a map whose keys are known, `partitions.oem.size: 60` is the same as a map of
// maps. Keys of maps that may have any name, such as those of sysctl, are left as they are.
func expand(v *Value, k *Key) *Value {
	switch {
	case v.IsList() && k.Type == tList:
		items := make([]*Value, len(v.items))
		for i, item := range v.items {
			items[i] = expand(item, k.Elem)
		}
		return v.list(items)
	case v.IsMap() && k.Type == tMap:
		fields := make([]field, len(v.fields))
		for i, f := range v.fields {
			fields[i] = field{f.name, f.pos, expand(f.value, k.Elem)}
		}
		return v.with(fields)
	case !v.IsMap() || k.Type != tObject && k.Type != tUser:
		return v
	}
	var fields []field
	for _, f := range v.fields {
		first, rest, dotted := strings.Cut(f.name, ".")
		if parent := k.find(first); dotted && first != "" && rest != "" && parent != nil &&
			(parent.Type == tObject || parent.Type == tMap) {
			inner := f.value.with([]field{{rest, f.pos, f.value}}).asMap()
			f = field{first, f.pos, inner}
		}
		if at := indexOf(fields, f.name); at >= 0 {
			fields[at].value = merge(fields[at].value, f.value, nil)
			continue
		}
		fields = append(fields, f)
	}
	for i, f := range fields {
		if known := k.find(f.name); known != nil {
			fields[i].value = expand(f.value, known)
		}
	}
	return v.with(fields)
}

func indexOf(fields []field, name string) int {
	for i, f := range fields {
		if f.name == name {
			return i
		}
	}
	return -1
}
