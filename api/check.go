package api

import (
	"maps"
	"slices"
)

// Outcomes of a check of an upgrade.
const (
	OutcomeNothing = "nothing to do"
	OutcomeUpgrade = "would upgrade"
	OutcomeRefused = "would be refused"
)

// UpgradeCheck is what an upgrade would do. Nothing on the node has changed.
type UpgradeCheck struct {
	Release string `json:"release"` // id of the image's
	Version string `json:"version,omitempty"`
	// Booted is the id of the release that Labels and Packages are compared with: the one that runs.
	Booted   string `json:"booted"`
	Recovery bool   `json:"recovery,omitempty"` // the recovery system would be upgraded
	// Outcome is one of OutcomeNothing, OutcomeUpgrade and OutcomeRefused, and Reason says why it would be refused, as
	// far as that can be known before the layers are there.
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
	// Accepted are the requirements of the node's policies that accept the image; none where there is no policy.
	Accepted []Acceptance `json:"accepted,omitempty"`
	// Layers are the image's layers, Missing those of them that the node does not have.
	Layers  int `json:"layers"`
	Missing int `json:"missing"`
	// Fetch is the number of bytes of layers to fetch from a registry: what [Transfer] then has as Fetched, unless an
	// earlier run has fetched some of it, requests break, or releases have to be removed for room first. Of a release
	// that is published beside its image, Reuse, Ranges and Requests are what Transfer then has as Reused, Ranges and
	// Requests: bytes of data that other blobs on the node have, ranges of blobs, and requests for them, as their
	// dm-verity trees say. They are 0 where whole layers are fetched and converted.
	Fetch    int64 `json:"fetch"`
	Reuse    int64 `json:"reuse,omitempty"`
	Ranges   int64 `json:"ranges,omitempty"`
	Requests int64 `json:"requests,omitempty"`
	// Write is about the number of bytes that would be written to the partition with the store, and Free what that
	// has.
	Write int64 `json:"write"`
	Free  int64 `json:"free"`
	// Removed are the ids of releases that no role would need any more.
	Removed []string `json:"removed,omitempty"`
	// Labels are those of the image's labels io.kairos.* that differ, by name.
	Labels []Difference `json:"labels,omitempty"`
	// Packages are those of the distribution's packages that differ, by name. PackagesUnknown says why they are not
	// known.
	Packages        []Difference `json:"packages,omitempty"`
	PackagesUnknown string       `json:"packagesUnknown,omitempty"`
}

// Difference is a value that is another one in the new image than in what runs. "" is none.
type Difference struct {
	Name   string `json:"name"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// Differences lists what differs between two maps, by name.
func Differences[M ~map[string]string](before, after M) (all []Difference) {
	names := map[string]string{}
	maps.Copy(names, before)
	maps.Copy(names, after)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if before[name] != after[name] {
			all = append(all, Difference{Name: name, Before: before[name], After: after[name]})
		}
	}
	return all
}
