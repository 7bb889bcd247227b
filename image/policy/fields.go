package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
)

// fields are those of a JSON object that have not been read yet, and the first error.
type fields struct {
	all    map[string]json.RawMessage
	failed error
}

// object takes a JSON object apart. Unlike package json it knows upper from lower case, and refuses a key that is
// there twice: programs differ in which one they take.
func object(b []byte) (*fields, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.Join(err, errors.New("want a JSON object"))
	}
	f := &fields{all: map[string]json.RawMessage{}}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string) // what else is before a colon, the decoder refuses
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if _, ok := f.all[name]; ok {
			return nil, fmt.Errorf("%s: it is there twice", name)
		}
		f.all[name] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	return f, nil
}

// take reads a field, and says whether it is there.
func (f *fields) take(name string, to any) bool {
	raw, ok := f.all[name]
	if !ok {
		return false
	}
	delete(f.all, name)
	if err := json.Unmarshal(raw, to); err != nil {
		f.fail(fmt.Errorf("%s: %w", name, err))
	}
	return true
}

func (f *fields) fail(err error) {
	if f.failed == nil {
		f.failed = err
	}
}

// done returns the first error, or that a field is there that nobody has read.
func (f *fields) done() error {
	if f.failed != nil || len(f.all) == 0 {
		return f.failed
	}
	return fmt.Errorf("field %q is not known", slices.Sorted(maps.Keys(f.all))[0])
}

// material reads NAMEPath, NAMEPaths, NAMEData or NAMEDatas, of which there may be one.
func (f *fields) material(name string) (m material) {
	var one string
	var data []byte
	given := 0
	if f.take(name+"Path", &one) {
		m.paths = []string{one}
		given++
	}
	if f.take(name+"Paths", &m.paths) {
		given++
	}
	if f.take(name+"Data", &data) {
		m.data = [][]byte{data}
		given++
	}
	if f.take(name+"Datas", &m.data) {
		given++
	}
	if given > 1 {
		f.fail(fmt.Errorf("want one of %[1]sPath, %[1]sPaths, %[1]sData and %[1]sDatas", name))
	}
	if given == 1 && m.empty() {
		f.fail(fmt.Errorf("%s…: it is empty", name))
	}
	for _, p := range m.paths {
		if !path.IsAbs(p) {
			f.fail(fmt.Errorf("%sPath %q: want the whole path, from / on", name, p))
		}
	}
	return m
}
