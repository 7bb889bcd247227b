package node

// Event says how far a command has come.
type Event struct {
	// Step is "fetch", "layer", "release", "boot files", "activate", "collect", "partition" or
	// "note".
	Step string `json:"step"`
	// Object is what is being worked on.
	Object string `json:"object,omitempty"`
	// Done and Total are bytes; both are 0 where there is nothing to count.
	Done  int64 `json:"done,omitempty"`
	Total int64 `json:"total,omitempty"`
	// Text is a sentence for people, of a note.
	Text string `json:"text,omitempty"`
}

// Progress is told about events. Nil is allowed. It may be called by several goroutines.
type Progress func(Event)

func (p Progress) step(step, object string) {
	if p != nil {
		p(Event{Step: step, Object: object})
	}
}

func (p Progress) note(text string) {
	if p != nil {
		p(Event{Step: "note", Text: text})
	}
}
