package luks

import "encoding/json"

// Token says what opens keyslots: an object of its type's own, such as systemd-recovery or systemd-tpm2.
type Token struct {
	Type     string          `json:"type"`
	Keyslots []string        `json:"keyslots"`
	Raw      json.RawMessage `json:"-"` // as it is in the header
}

// Tokens returns the tokens by their numbers. One without a type is left out.
func (h *Header) Tokens() map[string]Token {
	all := map[string]Token{}
	for id, raw := range h.meta.Tokens {
		t := Token{Raw: raw}
		if err := json.Unmarshal(raw, &t); err == nil && t.Type != "" {
			all[id] = t
		}
	}
	return all
}
