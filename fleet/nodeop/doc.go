// Package nodeop decides what is to be done next for a NodeOp, from its objects alone, as package rollout does for a
// NodeOpUpgrade.
//
//	         to do         drained          Job is there       it ended well          boot changed, Ready
//	Preflight ───▶ Cordoning ────▶ Starting ────▶ Running ────▶ Restarting ───────────────────▶ Completed
//	    │              │                             │  └─────────── without rebootOnSuccess ──────▲
//	    │              └── too late ─────────────────┴── it failed ──┴── too late ─▶ Failed
//	    └── nothing to do ─▶ Skipped
//
// The step that a node is at is in its annotation operator.kairos.io/nodeop. What has ended is noted in the NodeOp's
// status, too, and then another NodeOp may have the node. A Job is made once: one that was seen and is gone has
// failed.
package nodeop
