package api

// Verification is what verify found.
type Verification struct {
	// Releases, Layers and Bytes were read and compared with their digests.
	Releases int   `json:"releases"`
	Layers   int   `json:"layers"`
	Bytes    int64 `json:"bytes"`
	// Damage is what differs, repaired or not.
	Damage []Damage `json:"damage"`
}

// Whole says that no damage is left.
func (v Verification) Whole() bool {
	for _, d := range v.Damage {
		if d.Repaired == "" {
			return false
		}
	}
	return true
}

// Places of damage.
const (
	PlaceState    = "state"
	PlaceRecovery = "recovery"
	PlaceESP      = "efi"
	PlaceCache    = "cache"  // what is fetched, on PERSISTENT
	PlaceMedium   = "medium" // the live medium
)

// Damage is one object whose bytes are not those that it should have.
type Damage struct {
	Place string `json:"place"` // one of the constants above
	// Object is a layer's diffID, or a path in that place.
	Object string `json:"object"`
	// Releases are the ids of those that need it.
	Releases []string `json:"releases,omitempty"`
	Problem  string   `json:"problem"`
	// Repaired says where the right bytes came from; empty: it is damaged still.
	Repaired string `json:"repaired,omitempty"`
	// Advice says what a person can do about damage that is left.
	Advice string `json:"advice,omitempty"`
}
