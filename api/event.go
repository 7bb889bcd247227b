package api

// Steps of a command that takes long, as [Event.Step] names them.
const (
	StepFetch     = "fetch"      // a blob from a registry
	StepLayer     = "layer"      // a layer becomes a blob of the store
	StepCopy      = "copy"       // a blob from another store
	StepRelease   = "release"    // release.json
	StepBootFiles = "boot files" // kernel, initrd and UKI are read or rebuilt
	StepActivate  = "activate"   // the release becomes the one that boots next
	StepVerify    = "verify"     // a layer is read and compared with its digest
	StepCollect   = "collect"    // what no role needs is removed
	StepPartition = "partition"  // a partition table or a file system is written
	StepWrite     = "write"      // content of a disk
	StepNote      = "note"       // Text is worth knowing, and no step
	StepError     = "error"      // Text is why the command failed; the last line
)

// Event says how far a command has come.
type Event struct {
	// Step is one of the constants above.
	Step string `json:"step"`
	// Object is what is being worked on, in words for people.
	Object string `json:"object,omitempty"`
	// Layer is the diffID of the layer that this is about, also of what is fetched for it.
	Layer string `json:"layer,omitempty"`
	// Done of Total bytes are done. Total is 0 where it is not known, both are where there is nothing to
	// count. Of a layer they are bytes of its uncompressed tar, of a fetch bytes on the wire.
	Done  int64 `json:"bytes,omitempty"`
	Total int64 `json:"total,omitempty"`
	// Rate is in bytes per second, since the object's first event.
	Rate int64 `json:"rate,omitempty"`
	// Text is a sentence for people.
	Text string `json:"text,omitempty"`
}
