// Package rollout decides what is to be done next for a NodeOpUpgrade, from its objects alone: it asks nobody, changes
// nothing, and remembers nothing. A caller carries out what [Decide] says, and asks again with the objects as they are
// then; one that was interrupted anywhere, or has forgotten all, gets the same answer.
//
//	       fetched          its turn        drained          boot changed        blessed
//	Staging ────▶ Staged ────▶ Cordoning ────▶ Restarting ────▶ Trial ────▶ (Recovery) ────▶ Blessed
//	   │                          │                │              │  └─ another release runs ─▶ FellBack
//	   └── refused, tries used up ┴────────────────┴── too late ──┴────────────────────────────▶ Failed
//
//	Blessed ── rollback ──▶ Staged (with NodeRecord.Undo) … Trial ──▶ RolledBack
//
// A release is fetched before the node is cordoned, so that a download costs no capacity; the node is uncordoned by
// the same write that says that it is done.
package rollout
