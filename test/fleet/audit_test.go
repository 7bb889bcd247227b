//go:build fleet

package fleet

import (
	"bufio"
	"encoding/json"
	"os"
	"testing"
)

// request is one of the operator's, as the API server has written it down.
type request struct {
	Verb      string
	Stage     string
	ObjectRef struct{ Resource, Subresource, APIGroup, Namespace, Name string }
	Status    struct{ Code int } `json:"responseStatus"`
}

// right is what a role has to give for it.
func (r request) right() string {
	resource := r.ObjectRef.Resource
	if r.ObjectRef.Subresource != "" {
		resource += "/" + r.ObjectRef.Subresource
	}
	return r.Verb + " " + resource + "." + r.ObjectRef.APIGroup
}

// requests reads all requests of the operators so far that are answered, from that byte of the file on.
func requests(t *testing.T, from int64, each func(request)) {
	t.Helper()
	f, err := os.Open(cluster.audit)
	must(t, err)
	defer f.Close()
	_, err = f.Seek(from, 0)
	must(t, err)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r request
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue // the last one is being written
		}
		if r.Stage == "ResponseComplete" || r.Verb == "watch" {
			each(r)
		}
	}
	must(t, lines.Err())
}

// refused counts requests that were answered with a code.
func refused(t *testing.T, code int) (n int) {
	t.Helper()
	requests(t, 0, func(r request) {
		if r.Status.Code == code {
			n++
		}
	})
	return n
}
