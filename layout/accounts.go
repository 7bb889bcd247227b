package layout

import (
	"encoding/json"
	"fmt"
)

// AccountIDs, on PERSISTENT, keeps the numbers that a node's users and groups were given, so that no release
// and no config moves them: see [IDs]. The path is relative to the root.
const AccountIDs = PersistentState + "/account-ids.json"

// Numbers of users and groups: the conventions of login.defs(5) and systemd's UIDS-GIDS.
const (
	FirstUserID   = 1000
	LastUserID    = 59999
	FirstSystemID = 100
	LastSystemID  = 999
)

// IDs are the numbers of users and groups by their names.
type IDs struct {
	Users  map[string]int `json:"users"`
	Groups map[string]int `json:"groups"`
}

// ParseIDs reads AccountIDs.
func ParseIDs(b []byte) (IDs, error) {
	var i IDs
	if err := json.Unmarshal(b, &i); err != nil {
		return IDs{}, fmt.Errorf("%s: %w", AccountIDs, err)
	}
	for _, m := range []map[string]int{i.Users, i.Groups} {
		for name, id := range m {
			if name == "" || id < 0 {
				return IDs{}, fmt.Errorf("%s: %q has the number %d", AccountIDs, name, id)
			}
		}
	}
	if i.Users == nil {
		i.Users = map[string]int{}
	}
	if i.Groups == nil {
		i.Groups = map[string]int{}
	}
	return i, nil
}

// Marshal returns the bytes of AccountIDs.
func (i IDs) Marshal() []byte {
	b, _ := json.MarshalIndent(i, "", "  ") // strings and numbers cannot fail
	return append(b, '\n')
}

// GrantedKeys, on PERSISTENT, lists the public keys that a node's config has put into users' authorized_keys, so that
// those can be taken back, and no others: see [Granted]. The path is relative to the root.
const GrantedKeys = PersistentState + "/granted-keys.json"

// Granted are lines of authorized_keys by the users' names.
type Granted map[string][]string

// ParseGranted reads GrantedKeys.
func ParseGranted(b []byte) (Granted, error) {
	var g Granted
	if err := json.Unmarshal(b, &g); err != nil {
		return nil, fmt.Errorf("%s: %w", GrantedKeys, err)
	}
	if g == nil {
		g = Granted{}
	}
	return g, nil
}

// Marshal returns the bytes of GrantedKeys.
func (g Granted) Marshal() []byte {
	b, _ := json.MarshalIndent(g, "", "  ") // strings cannot fail
	return append(b, '\n')
}
