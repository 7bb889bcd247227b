package layout

import (
	"reflect"
	"testing"
)

func FuzzParseIDs(f *testing.F) {
	for _, s := range []string{`{"users":{"a":1000},"groups":{"a":1000,"b":900}}`, `{}`, `{"users":{"a":-1}}`, `[`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := ParseIDs(b)
		if err != nil {
			return
		}
		again, err := ParseIDs(i.Marshal())
		if err != nil || !reflect.DeepEqual(i, again) {
			t.Errorf("%v becomes %v, %v", i, again, err)
		}
	})
}

func FuzzParseProblems(f *testing.F) {
	f.Add([]byte(`[{"where":"90_custom.yaml:3","path":"users[0]","message":"no name","stage":"boot"}]`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseProblems(b)
		if err != nil || len(p) > maxProblems {
			return
		}
		again, err := ParseProblems(MarshalProblems(p))
		if err != nil || len(p) != len(again) || len(p) > 0 && !reflect.DeepEqual(p, again) {
			t.Errorf("%v becomes %v, %v", p, again, err)
		}
	})
}

func FuzzParseGranted(f *testing.F) {
	for _, s := range []string{`{"a":["ssh-ed25519 AAAA x"],"b":null}`, `{}`, `null`, `[`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := ParseGranted(b)
		if err != nil {
			return
		}
		again, err := ParseGranted(g.Marshal())
		if err != nil || !reflect.DeepEqual(g, again) {
			t.Errorf("%v becomes %v, %v", g, again, err)
		}
	})
}
