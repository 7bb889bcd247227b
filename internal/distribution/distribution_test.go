package distribution

import (
	"slices"
	"testing"
)

// The lines are those of distribution v3.1.2.
func TestParse(t *testing.T) {
	log := `time="2026-11-28T12:50:01.5Z" level=info msg="response completed" http.request.method=GET
127.0.0.1 - - [28/Nov/2026:12:50:01 +0000] "GET /v2/os/blobs/sha256:ab HTTP/1.1" 206 4096 "" "kairos"
127.0.0.1 - - [28/Nov/2026:12:50:01 +0000] "HEAD /v2/os/manifests/v1 HTTP/1.1" 200 1234 "" "kairos"
127.0.0.1 - - [28/Nov/2026:12:50:02 +0000] "GET /v2/os/manifests/v1?ns=a HTTP/1.1" 200 1234 "" "kairos"
127.0.0.1 - - [28/Nov/2026:12:50:02 +0000] "GET /v2/os/referrers/sha256:ab HTTP/1.1" 404 19 "" "GET / HTTP/1.1"
`
	got, err := parse([]byte(log))
	if err != nil {
		t.Fatal(err)
	}
	want := []Answer{
		{"/v2/os/blobs/sha256:ab", 206, 4096}, {"/v2/os/manifests/v1?ns=a", 200, 1234},
		{"/v2/os/referrers/sha256:ab", 404, 19},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if _, err := parse([]byte(`::1 - - [] "GET / HTTP/1.1" 200 99999999999999999999 `)); err == nil {
		t.Error("a number of 20 digits is none")
	}
}
