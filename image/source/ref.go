package source

import (
	"fmt"
	"strings"
)

// Ref says where an image is.
type Ref struct {
	Kind Kind
	// Name is a registry's reference, a path, or the name of an image in an engine. A path may
	// end in ":TAG" or "@DIGEST" where the layout or archive has several images.
	Name string
}

// Kind is a kind of place for an image.
type Kind string

// The kinds of places.
const (
	Registry      Kind = "oci"            // a registry
	OCILayout     Kind = "oci-layout"     // a folder in OCI image layout
	OCIArchive    Kind = "oci-archive"    // a tar of such a folder
	DockerArchive Kind = "docker-archive" // what `docker save` writes
	Docker        Kind = "docker"         // an image of the Docker engine on this machine
	Containerd    Kind = "containerd"     // an image that containerd on this machine has
	Directory     Kind = "dir"            // a root file system in a folder
	ISO           Kind = "iso"            // the release on an ISO
	Disk          Kind = "disk"           // a release on a disk: a raw or qcow2 file, or a device
)

var kinds = map[Kind]bool{
	Registry: true, OCILayout: true, OCIArchive: true, DockerArchive: true, Docker: true, Containerd: true,
	Directory: true, ISO: true, Disk: true,
}

// Help explains references to people.
const Help = `  [oci:]registry.example/os:v2   in a registry
  oci-layout:DIR[:TAG]           a folder in OCI image layout
  oci-archive:FILE[:TAG]         the same in a tar
  docker-archive:FILE[:TAG]      what ` + "`docker save`" + ` writes
  docker:NAME                    in the Docker engine of this machine
  containerd:NAME                in containerd on this machine
  dir:DIR                        a root file system in a folder
  iso:FILE                       on an ISO that Kairos made
  disk:FILE[:RELEASE]            on a disk, raw or qcow2; RELEASE is an id, active, passive or recovery
`

// Parse reads a reference as people write it. Without a kind it is a registry's.
func Parse(s string) (Ref, error) {
	kind, name, ok := strings.Cut(s, ":")
	if k := Kind(kind); ok && kinds[k] {
		if k == Registry {
			name = strings.TrimPrefix(name, "//")
		}
		if name == "" {
			return Ref{}, fmt.Errorf("image %q: nothing after %s:", s, kind)
		}
		return Ref{k, name}, nil
	}
	if s == "" || strings.ContainsAny(s, " \t\r\n") {
		return Ref{}, fmt.Errorf(
			"image %q: want a registry's reference or one of oci-layout:, oci-archive:, docker-archive:, docker:, "+
				"containerd:, dir:, iso:, disk:",
			s,
		)
	}
	return Ref{Registry, s}, nil
}

// String returns what Parse reads.
func (r Ref) String() string { return string(r.Kind) + ":" + r.Name }
