package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/agext/levenshtein"
)

// checker holds values against the schema: it reports on every key, and returns what is valid, each scalar in one
// spelling.
type checker struct {
	report *Report
	// suggested counts the unknown keys that a name was looked for.
	suggested int
}

// maxSuggested bounds them: who has more unknown keys than that has another file before him than a cloud-config.
const maxSuggested = 1000

// suggest is similar for an unknown key.
func (c *checker) suggest(name string, k *Key) string {
	if c.suggested++; c.suggested > maxSuggested {
		return ""
	}
	return similar(name, k.names(), "")
}

func (c *checker) fail(path string, v *Value, message, suggestion string) {
	c.report.Errors = append(c.report.Errors, Error{path, v.Pos(), message, suggestion})
}

// value returns the valid part of a value, and whether there is any. Of a list or a map whose parts are wrong that is
// what is left.
func (c *checker) value(path string, v *Value, k *Key) (*Value, bool) {
	if v.IsNull() {
		return v, true // as if earlier files had not said anything
	}
	got, ok := c.typed(path, v, k)
	if !ok {
		return nil, false
	}
	if len(k.Enum) > 0 && !slices.Contains(k.Enum, got.Text()) {
		message := fmt.Sprintf("%s is no value for it", got.kind())
		c.fail(path, v, message, similar(got.Text(), k.Enum, "want "+orList(k.Enum)))
		return nil, false
	}
	if k.Check != nil {
		if message, suggestion := k.Check(got); message != "" {
			c.fail(path, v, message, suggestion)
			return nil, false
		}
	}
	return got, true
}

func (c *checker) typed(path string, v *Value, k *Key) (*Value, bool) {
	wrong := func(want, suggestion string) (*Value, bool) {
		c.fail(path, v, fmt.Sprintf("want %s, not %s", want, v.kind()), suggestion)
		return nil, false
	}
	switch k.Type {
	case tAny:
		return v, true
	case tObject:
		if !v.IsMap() {
			return wrong("a map", objectHint(k))
		}
		return c.object(path, v, k), true
	case tUser:
		if v.Text() == DefaultUser || v.Key("name").Text() == DefaultUser {
			c.report.Ignored = append(c.report.Ignored, Ignored{path, v.pos, cloudInitWhy + "name the account", true})
			return v, true
		}
		if v.IsScalar() {
			if message, suggestion := checkUserName(v); message != "" {
				c.fail(path, v, message, suggestion)
				return nil, false
			}
			c.report.Applied = append(c.report.Applied, Applied{path, v.pos})
			return v.with([]field{{"name", v.pos, v.scalar("!!str", v.Text())}}).asMap(), true
		}
		if !v.IsMap() {
			return wrong("a user: its name, or a map", "")
		}
		return c.object(path, v, k), true
	case tMap:
		if !v.IsMap() {
			return wrong("a map", "")
		}
		return c.mapping(path, v, k), true
	case tList:
		if !v.IsList() {
			suggestion := "begin each item with a dash"
			if v.IsScalar() {
				suggestion = "write [" + v.Text() + "]"
			}
			return wrong("a list", suggestion)
		}
		return c.list(path, v, k.Elem), true
	case tWords, tLines, tCommand, tEnv:
		return c.several(path, v, k)
	}
	if !v.IsScalar() {
		return wrong(typeNames[k.Type], "")
	}
	return c.scalar(path, v, k)
}

// scalar gives a scalar the one spelling that its type has.
func (c *checker) scalar(path string, v *Value, k *Key) (*Value, bool) {
	text := v.Text()
	wrong := func(suggestion string) (*Value, bool) {
		c.fail(path, v, fmt.Sprintf("want %s, not %s", typeNames[k.Type], v.kind()), suggestion)
		return nil, false
	}
	switch k.Type {
	case tBool:
		b, ok := parseBool(text)
		if !ok {
			return wrong("write true or false")
		}
		return v.scalar("!!bool", strconv.FormatBool(b)), true
	case tInt, tSize:
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil || n < 0 {
			return wrong(sizeHint(text, k.Type))
		}
		return v.scalar("!!int", strconv.FormatInt(n, 10)), true
	case tMode:
		m, ok := parseMode(text)
		if !ok {
			return wrong("write \"0644\"")
		}
		// In octal, so that it means the same when it is read again, here and by YAML libraries.
		return v.scalar("!!int", fmt.Sprintf("%#o", m)), true
	}
	if b, ok := parseBool(text); ok && slices.Contains(k.Enum, strconv.FormatBool(b)) {
		text = strconv.FormatBool(b)
	}
	return v.scalar("!!str", text), true
}

// several reads the types that a list or something shorter can stand for. The result is a list, and of variables a
// map.
func (c *checker) several(path string, v *Value, k *Key) (*Value, bool) {
	if k.Type == tEnv {
		return c.env(path, v)
	}
	switch {
	case v.IsList():
		return c.list(path, v, &Key{}), true
	case k.Type == tCommand && v.IsScalar():
		return v.scalar("!!str", v.Text()), true
	case k.Type == tLines && v.IsScalar() && v.node.ShortTag() == "!!bool" && !v.Bool():
		return v.list(nil), true
	case k.Type == tLines && v.IsScalar():
		return v.list([]*Value{v.scalar("!!str", v.Text())}), true
	case k.Type == tWords && v.IsScalar():
		var items []*Value
		for w := range strings.SplitSeq(v.Text(), ",") {
			if w = strings.TrimSpace(w); w != "" {
				items = append(items, v.scalar("!!str", w))
			}
		}
		return v.list(items), true
	}
	c.fail(path, v, fmt.Sprintf("want %s, not %s", typeNames[k.Type], v.kind()), "")
	return nil, false
}

func (c *checker) env(path string, v *Value) (*Value, bool) {
	switch {
	case v.IsMap():
		return c.mapping(path, v, &Key{Elem: &Key{}}), true
	case v.IsList():
		var fields []field
		for i, item := range v.items {
			name, value, ok := strings.Cut(item.Text(), "=")
			if !ok || name == "" {
				c.fail(path+"["+strconv.Itoa(i)+"]", item, "want NAME=value", "")
				continue
			}
			fields = append(fields, field{name, item.pos, item.scalar("!!str", value)})
		}
		return v.with(fields).asMap(), true
	}
	c.fail(path, v, fmt.Sprintf("want variables, not %s", v.kind()), "write NAME: value, or a list of NAME=value")
	return nil, false
}

func (c *checker) list(path string, v *Value, elem *Key) *Value {
	var items []*Value
	for i, item := range v.items {
		if got, ok := c.value(path+"["+strconv.Itoa(i)+"]", item, elem); ok && !got.IsNull() {
			items = append(items, got)
		}
	}
	return v.list(items)
}

func (c *checker) mapping(path string, v *Value, k *Key) *Value {
	var fields []field
	for _, f := range v.fields {
		at := join(path, f.name)
		if k.Names != nil {
			if message, suggestion := k.Names(f.name); message != "" {
				c.fail(at, f.value, message, suggestion)
				continue
			}
		}
		if got, ok := c.value(at, f.value, k.Elem); ok {
			fields = append(fields, field{f.name, f.pos, got.at(f.pos)})
		}
	}
	return v.with(fields)
}

// object looks at each key of a map. Here a key becomes applied, ignored or an error.
func (c *checker) object(path string, v *Value, k *Key) *Value {
	var fields []field
	for _, f := range v.fields {
		if strings.HasPrefix(f.name, "x-") || strings.HasPrefix(f.name, ".") {
			continue // where people keep what they refer to by aliases
		}
		at, known := join(path, f.name), k.find(f.name)
		if known == nil {
			c.fail(at, f.value, "the key is not known", c.suggest(f.name, k))
			continue
		}
		if v.Has(known.Name) && f.name != known.Name {
			c.fail(
				at,
				f.value,
				fmt.Sprintf("it is another spelling of %s, which is there, too", known.Name),
				"remove one of them",
			)
			continue
		}
		got, ok := c.known(at, f, known)
		if ok {
			fields = append(fields, field{known.Name, f.pos, got.at(f.pos)})
		}
	}
	return v.with(fields)
}

func (c *checker) known(path string, f field, k *Key) (*Value, bool) {
	if k.Status == Refuse {
		c.fail(path, f.value, "not here", k.Why)
		return nil, false
	}
	before := len(c.report.Errors)
	got, ok := c.value(path, f.value, k)
	if !ok {
		return nil, false
	}
	switch {
	case k.Status != Applies:
		c.report.Ignored = append(c.report.Ignored, Ignored{path, f.pos, k.Why, k.Status == CloudInit})
		return got, k.Status == CloudInit
	case !k.container() || f.value.empty():
		if len(c.report.Errors) == before {
			c.report.Applied = append(c.report.Applied, Applied{path, f.pos})
		}
	}
	return got, true
}

func (v *Value) empty() bool { return len(v.fields) == 0 && len(v.items) == 0 }

func (v *Value) asMap() *Value {
	w := *v
	w.node = emptyMap("").node
	return &w
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

var typeNames = map[Type]string{
	tString: "a string", tBool: "true or false", tInt: "a whole number", tSize: "a number of MiB",
	tMode:  "octal permissions",
	tWords: "a list of words", tLines: "a list of lines", tCommand: "a command", tList: "a list", tMap: "a map",
	tEnv:    "variables",
	tObject: "a map", tUser: "a user", tAny: "any value",
}

func objectHint(k *Key) string {
	names := k.names()
	if len(names) == 0 {
		return ""
	}
	return "its keys are " + orList(names[:min(4, len(names))])
}

func sizeHint(text string, t Type) string {
	if t != tSize {
		return ""
	}
	text = strings.TrimSpace(strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(text), "B"), "I"))
	for unit, mib := range map[string]int64{"M": 1, "G": 1 << 10, "T": 1 << 20} {
		digits, ok := strings.CutSuffix(text, unit)
		if n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 32); ok && err == nil && n > 0 {
			return fmt.Sprintf("write %d", n*mib)
		}
	}
	return ""
}

// parseBool reads a boolean as YAML 1.1 and 1.2 spell it, which is what people have in their configs.
func parseBool(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "true", "yes", "on", "y":
		return true, true
	case "false", "no", "off", "n":
		return false, true
	}
	return false, false
}

// parseMode reads permissions. Digits are octal whether there is a 0 before them or not: nobody means 644 in decimal.
func parseMode(s string) (uint32, bool) {
	s = strings.TrimSpace(s)
	if rest, ok := strings.CutPrefix(s, "0o"); ok {
		s = rest
	}
	if strings.Trim(s, "01234567") != "" || s == "" {
		return 0, false
	}
	m, err := strconv.ParseUint(s, 8, 32)
	if err != nil || m > 0o7777 {
		return 0, false
	}
	return uint32(m), true
}

// similar suggests the name that is nearest to what is written. Names that are too long or too short to be near are
// not compared, so that it takes no longer where what is written is long.
func similar(got string, names []string, otherwise string) string {
	flat := strings.NewReplacer("_", "", "-", "").Replace
	near := max(1, len(got)/3)
	got = flat(strings.ToLower(got))
	best, at := "", near+1
	for _, name := range names {
		want := flat(strings.ToLower(name))
		if d := len(want) - len(got); d >= at || -d >= at {
			continue
		}
		if d := levenshtein.Distance(got, want, nil); d < at {
			best, at = name, d
		}
	}
	if best == "" {
		return otherwise
	}
	return fmt.Sprintf("did you mean %q?", best)
}

func orList(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}
