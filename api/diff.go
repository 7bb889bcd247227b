package api

// How bytes of a layer would be fetched, as [DiffLayer.By] says it.
const (
	ByNothing = "here"   // the node has it
	ByBlocks  = "blocks" // those of its blob that no blob of the other image has
	ByLayer   = "layer"  // as a whole
)

// Changes of a file, as [FileDifference.Change] names them.
const (
	FileAdded      = "added"
	FileRemoved    = "removed"
	FileChanged    = "changed"    // type, content or a link's target
	FileAttributes = "attributes" // mode, owner or capabilities, and not the content
)

// Diff is how an image B differs from an image A, and what a node that has A, and nothing else, fetches for B.
type Diff struct {
	// Schema is [Schema].
	Schema int      `json:"schema"`
	A      DiffSide `json:"a"`
	B      DiffSide `json:"b"`
	// Fetch is in bytes, dm-verity trees included, and Reuse the bytes of data in B's new blobs that A's blobs have.
	// Ranges and Requests are those for what is fetched by blocks.
	Fetch    int64 `json:"fetch"`
	Reuse    int64 `json:"reuse,omitempty"`
	Ranges   int64 `json:"ranges,omitempty"`
	Requests int64 `json:"requests,omitempty"`
	// WholeLayers says why layers are fetched as a whole; empty: blocks are.
	WholeLayers string      `json:"wholeLayers,omitempty"`
	Layers      []DiffLayer `json:"layers"` // B's, the lowest first
	// Boot is what differs of "kernel", its version, and "cmdline", the kernel's command line.
	Boot []Difference `json:"boot,omitempty"`
	// Labels are those of the images' labels that differ, by name.
	Labels []Difference `json:"labels,omitempty"`
	// Packages are those of the distribution's packages that differ, by name. PackagesUnknown says why they are not
	// known.
	Packages        []Difference `json:"packages,omitempty"`
	PackagesUnknown string       `json:"packagesUnknown,omitempty"`
	// Files are those that differ, by path. FilesUnknown says why they are not known.
	Files        []FileDifference `json:"files,omitempty"`
	FilesUnknown string           `json:"filesUnknown,omitempty"`
}

// DiffSide is one of two images that are compared.
type DiffSide struct {
	Source       string `json:"source"`  // as it was named
	Release      string `json:"release"` // id
	Version      string `json:"version,omitempty"`
	ConfigDigest string `json:"configDigest"`
	Arch         string `json:"arch"`
	// Blobs says where the layers' blobs are: "release" beside the image, "medium", or nowhere.
	Blobs string `json:"blobs,omitempty"`
}

// DiffLayer is what a layer costs.
type DiffLayer struct {
	DiffID string `json:"diffID"`
	By     string `json:"by"` // one of ByNothing, ByBlocks and ByLayer
	// Size is in bytes: of the blob with its dm-verity tree, or of the layer as it is stored, as By says.
	Size  int64 `json:"size"`
	Fetch int64 `json:"fetch"`
	Reuse int64 `json:"reuse,omitempty"`
}

// FileDifference is a path that differs.
type FileDifference struct {
	Path   string `json:"path"`   // from the root, without the first slash
	Change string `json:"change"` // one of the constants above
	// Before and After are the file's sizes in bytes; 0 of what is no file.
	Before int64 `json:"before"`
	After  int64 `json:"after"`
}
