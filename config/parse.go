package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// MaxSize is the most bytes that a file may have. It is for configs, which are some kilobytes: what files need to
// bring along belongs into the image.
const MaxSize = 4 << 20

const (
	maxValues = 200_000
	maxDepth  = 64
)

// File is one config file, held against the schema. It is never nil: of a file that cannot be read, Report says why.
type File struct {
	Name   string
	value  *Value // what is valid; a map
	report Report
}

// Parse reads a cloud-config. The name is for messages: a path or an address.
func Parse(name string, data []byte) *File {
	f := &File{Name: name, report: Report{files: []string{name}}}
	raw, errs := read(name, data)
	f.report.Errors = append(f.report.Errors, errs...)
	if raw != nil {
		c := checker{report: &f.report}
		f.value, _ = c.value("", expand(raw, root), root)
	}
	if f.value == nil {
		f.value = emptyMap(name)
	}
	return f
}

// Unreadable is a file that is there, and cannot be read.
func Unreadable(name string, err error) *File {
	return &File{Name: name, value: emptyMap(name), report: Report{
		files: []string{name}, Errors: []Error{{Pos: Pos{File: name}, Message: err.Error()}},
	}}
}

func emptyMap(name string) *Value {
	return &Value{node: &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}, pos: Pos{File: name}}
}

// read turns the bytes of a file into values.
func read(name string, data []byte) (*Value, []Error) {
	fail := func(line int, suggestion, format string, args ...any) []Error {
		return []Error{
			{Pos: Pos{File: name, Line: line}, Message: fmt.Sprintf(format, args...), Suggestion: suggestion},
		}
	}
	if len(data) > MaxSize {
		return nil, fail(
			0,
			"put large files into the image",
			"the file has %d bytes: at most %d are read",
			len(data),
			MaxSize,
		)
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // what some editors begin a file with
	if message, suggestion := foreign(data); message != "" {
		return nil, fail(1, suggestion, "%s", message)
	}
	if i := invalid(data); i >= 0 {
		return nil, fail(
			1+bytes.Count(data[:i], []byte("\n")),
			"save it as UTF-8",
			"this is not text: byte %#x",
			data[i],
		)
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := decode(d, &doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		line, message, suggestion := explain(err, data)
		return nil, fail(line, suggestion, "%s", message)
	}
	b := builder{file: name}
	v := b.build(doc.Content[0], 0)
	if v.IsNull() {
		v = nil
	}
	if v != nil && !v.IsMap() {
		return nil, append(
			b.errs,
			fail(v.pos.Line, "begin with keys, such as `users:`", "a cloud-config is a map: this is %s", v.kind())...)
	}
	return v, append(b.errs, secondDocument(d, name, data)...)
}

// decode reads one document. The library panics for some input that its own fuzzing has not met.
func decode(d *yaml.Decoder, doc *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: %v", r)
		}
	}()
	return d.Decode(doc)
}

// secondDocument finds what follows the first document of a file. The Kairos project reads the first one only, and
// says nothing.
func secondDocument(d *yaml.Decoder, name string, data []byte) []Error {
	for {
		var doc yaml.Node
		err := decode(d, &doc)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			line, message, suggestion := explain(err, data)
			return []Error{{Pos: Pos{File: name, Line: line}, Message: message, Suggestion: suggestion}}
		}
		if len(doc.Content) > 0 && doc.Content[0].ShortTag() != "!!null" {
			return []Error{{
				Pos:        Pos{File: name, Line: doc.Content[0].Line},
				Message:    "a second document begins here: of a file only the first one is read",
				Suggestion: "join them, or put each into a file of its own",
			}}
		}
	}
}

// foreign recognizes what is no cloud-config, but is given in the same places.
func foreign(data []byte) (message, suggestion string) {
	switch {
	case bytes.HasPrefix(data, []byte("#!")):
		return "this is a script, no cloud-config", "put its lines under runcmd:, or into a stage's commands:"
	case bytes.HasPrefix(data, []byte("Content-Type:")), bytes.HasPrefix(data, []byte("MIME-Version:")):
		return "this is a multi-part message, no cloud-config", "give its cloud-config part"
	case bytes.HasPrefix(data, []byte("#include")):
		return "this is a list of addresses, no cloud-config", "use config_url:"
	case bytes.HasPrefix(data, []byte("\x1f\x8b")):
		return "this is compressed data, no cloud-config", "unpack it"
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return "this is UTF-16 text", "save it as UTF-8"
	}
	return "", ""
}

// invalid returns the index of the first byte that text does not have, or -1.
func invalid(data []byte) int {
	for i := 0; i < len(data); {
		if data[i] < utf8.RuneSelf {
			if data[i] == 0 {
				return i
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(?s:(.*))$`)

// explain turns an error of the YAML library into its line and words.
func explain(err error, data []byte) (line int, message, suggestion string) {
	m := yamlLine.FindStringSubmatch(err.Error())
	if m == nil {
		return 0, err.Error(), ""
	}
	line, _ = strconv.Atoi(m[1])
	message = m[2]
	lines := bytes.Split(data, []byte("\n"))
	// The library counts from 0 in some messages: look at the lines around.
	for _, i := range []int{line - 1, line, line - 2} {
		if i < 0 || i >= len(lines) {
			continue
		}
		text := lines[i]
		indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]
		if bytes.ContainsRune(indent, '\t') {
			return i + 1, "a tab in the indentation", "use spaces"
		}
		if _, value, ok := bytes.Cut(text, []byte(": ")); ok && bytes.HasPrefix(bytes.TrimSpace(value), []byte("{{")) {
			return i + 1, "a template without quotes is read as a map", "put quotes around it: \"{{ … }}\""
		}
	}
	return line, "this is not YAML: " + message, ""
}

// builder makes values of the YAML library's nodes.
type builder struct {
	file  string
	count int
	open  []*yaml.Node // the anchors that are being written out
	errs  []Error
	full  bool
}

func (b *builder) fail(n *yaml.Node, suggestion, format string, args ...any) {
	pos := Pos{File: b.file, Line: n.Line, Column: n.Column}
	b.errs = append(b.errs, Error{Pos: pos, Message: fmt.Sprintf(format, args...), Suggestion: suggestion})
}

// build returns nil for a value that cannot be, after an error.
func (b *builder) build(n *yaml.Node, depth int) *Value {
	if b.full {
		return nil
	}
	if b.count++; b.count > maxValues || depth > maxDepth {
		b.full = true
		what := fmt.Sprintf("more than %d values with its aliases written out", maxValues)
		if depth > maxDepth {
			what = fmt.Sprintf("values that are more than %d deep", maxDepth)
		}
		b.fail(n, "use fewer aliases and levels", "the file has %s: what follows is not read", what)
		return nil
	}
	pos := Pos{File: b.file, Line: n.Line, Column: n.Column}
	switch n.Kind {
	case yaml.AliasNode:
		if slices.Contains(b.open, n.Alias) {
			b.fail(n, "", "the alias *%s is within what it stands for", n.Value)
			return nil
		}
		b.open = append(b.open, n.Alias)
		v := b.build(n.Alias, depth)
		b.open = b.open[:len(b.open)-1]
		if v != nil {
			v = v.at(pos)
		}
		return v
	case yaml.ScalarNode:
		return &Value{node: n, pos: pos}
	case yaml.SequenceNode:
		v := &Value{node: n, pos: pos}
		for _, c := range n.Content {
			if item := b.build(c, depth+1); item != nil {
				v.items = append(v.items, item)
			}
		}
		return v
	case yaml.MappingNode:
		return b.buildMap(n, pos, depth)
	}
	b.fail(n, "", "this is not YAML")
	return nil
}

func (b *builder) buildMap(n *yaml.Node, pos Pos, depth int) *Value {
	v := &Value{node: n, pos: pos}
	lines := map[string]int{}
	var merged []*Value
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, c := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		if k.ShortTag() == "!!merge" {
			m := b.build(c, depth+1)
			if list := m.Items(); m.IsList() {
				merged = append(merged, list...)
			} else if m != nil {
				merged = append(merged, m)
			}
			continue
		}
		if k.Kind != yaml.ScalarNode {
			if strings.Contains(k.ShortTag(), "map") {
				b.fail(k, "put quotes around a template: \"{{ … }}\"", "a map is no key")
			} else {
				b.fail(k, "", "a list is no key")
			}
			continue
		}
		if at, ok := lines[k.Value]; ok {
			b.fail(k, "remove one of them", "the key %q is there twice: first in line %d, which counts", k.Value, at)
			continue
		}
		lines[k.Value] = k.Line
		if value := b.build(c, depth+1); value != nil {
			at := Pos{File: b.file, Line: k.Line, Column: k.Column}
			v.fields = append(v.fields, field{k.Value, at, value.at(at)})
		}
	}
	for _, m := range merged {
		if !m.IsMap() {
			b.fail(n, "give it an alias of a map", "<< is not a map")
			continue
		}
		for _, f := range m.fields {
			if !v.Has(f.name) {
				v.fields = append(v.fields, f)
			}
		}
	}
	return v
}
