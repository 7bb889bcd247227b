package source

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]Ref{
		"registry.example/os:v2":       {Registry, "registry.example/os:v2"},
		"oci:registry.example/os:v2":   {Registry, "registry.example/os:v2"},
		"oci://registry.example/os:v2": {Registry, "registry.example/os:v2"},
		"localhost:5000/os@sha256:" +
			strings.Repeat("a", 64): {Registry, "localhost:5000/os@sha256:" + strings.Repeat("a", 64)},
		"os:v2":                             {Registry, "os:v2"},
		"oci-layout:/a/b:tag":               {OCILayout, "/a/b:tag"},
		"docker-archive:x.tar":              {DockerArchive, "x.tar"},
		"containerd:registry.example/os:v2": {Containerd, "registry.example/os:v2"},
		"dir:/":                             {Directory, "/"},
		"iso:os.iso":                        {ISO, "os.iso"},
		"disk:os.raw:passive":               {Disk, "os.raw:passive"},
	} {
		got, err := Parse(in)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
		if again, err := Parse(got.String()); err != nil || again != got {
			t.Errorf("%s formats as %s, which parses as %+v, %v", in, got, again, err)
		}
	}
	for _, in := range []string{"", "oci:", "dir:", "a b"} {
		if got, err := Parse(in); err == nil {
			t.Errorf("%q accepted as %+v", in, got)
		}
	}
}

// What a release keeps of a reference leads to the same image, from wherever it is read.
func TestLabel(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for in, want := range map[string]string{
		"os:v2":                             "docker.io/library/os:v2",
		"oci:registry.example/os":           "registry.example/os:latest",
		"oci:docker:5000/os:v2":             "oci:docker:5000/os:v2",
		"oci-layout:/a/b:tag":               "oci-layout:/a/b:tag",
		"oci-layout:b:tag":                  "oci-layout:" + dir + "/b:tag",
		"oci-archive:./x.tar":               "oci-archive:" + dir + "/x.tar",
		"docker-archive:x.tar:example/os:v": "docker-archive:" + dir + "/x.tar:example/os:v",
		"dir:.":                             "dir:" + dir,
		"iso:os.iso":                        "iso:" + dir + "/os.iso",
		"disk:/dev/sdb:recovery":            "disk:/dev/sdb:recovery",
		"docker:os":                         "docker:os",
		"containerd:registry.example/os:v2": "containerd:registry.example/os:v2",
	} {
		r, err := Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		got := r.Label()
		if got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
		if again, err := Parse(got); err != nil || again.Label() != want || again.Kind != r.Kind {
			t.Errorf("%s: %s is read as %+v, %v", in, got, again, err)
		}
	}
}
