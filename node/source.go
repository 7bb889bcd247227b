package node

import (
	"fmt"
	"strings"
)

// Source says where an image is.
type Source struct {
	Kind SourceKind
	// Ref is a registry reference, a path, or the name of an image in containerd. A path may
	// end in ":TAG" where the layout or archive has several images.
	Ref string
}

// SourceKind is a kind of place for an image.
type SourceKind string

// The kinds of sources.
const (
	Registry      SourceKind = "oci"            // a registry
	OCILayout     SourceKind = "oci-layout"     // a folder in OCI image layout
	OCIArchive    SourceKind = "oci-archive"    // a tar of such a folder
	DockerArchive SourceKind = "docker-archive" // what `docker save` writes
	Containerd    SourceKind = "containerd"     // an image that containerd has
	Directory     SourceKind = "dir"            // a root file system in a folder
)

// SourceHelp explains sources to people.
const SourceHelp = `Sources:
  [oci:]registry.example/os:v2   an image in a registry
  oci-layout:DIR[:TAG]           a folder in OCI image layout
  oci-archive:FILE[:TAG]         a tar of such a folder
  docker-archive:FILE[:TAG]      what ` + "`docker save`" + ` writes
  containerd:NAME                an image in this node's containerd
  dir:DIR                        a root file system in a folder
`

// ParseSource reads a source as people write it. Without a kind it is a registry's.
func ParseSource(s string) (Source, error) {
	kind, ref, ok := strings.Cut(s, ":")
	switch k := SourceKind(kind); {
	case !ok:
	case k == Registry || k == OCILayout || k == OCIArchive || k == DockerArchive || k == Containerd || k == Directory:
		if k == Registry {
			ref = strings.TrimPrefix(ref, "//")
		}
		if ref == "" {
			return Source{}, fmt.Errorf("source %q: nothing after %s:", s, kind)
		}
		return Source{k, ref}, nil
	}
	if s == "" || strings.ContainsAny(s, " \t\n") {
		return Source{}, fmt.Errorf("source %q: want a registry reference or one of oci-layout:, oci-archive:, docker-archive:, containerd:, dir:", s)
	}
	return Source{Registry, s}, nil
}

// String returns what ParseSource reads.
func (s Source) String() string { return string(s.Kind) + ":" + s.Ref }

// splitTag cuts a tag off a path. exists says whether a path is there.
func splitTag(ref string, exists func(string) bool) (path, tag string) {
	if i := strings.LastIndexByte(ref, ':'); i > 0 && !exists(ref) && exists(ref[:i]) {
		return ref[:i], ref[i+1:]
	}
	return ref, ""
}
