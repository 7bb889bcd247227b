package initramfs

import "testing"

// The timer does not fire after the hand-over, a machine that was late is not handed over, and a failure is reported
// once.
func TestWhoDecidesFirst(t *testing.T) {
	var boots end
	if !boots.handOver() || boots.late() {
		t.Error("a machine that was handed over is late")
	}
	if !boots.fail() || boots.fail() {
		t.Error("an init that does not start is a failure, once")
	}
	var hangs end
	if !hangs.late() || hangs.handOver() || hangs.fail() {
		t.Error("a machine that was restarted goes on")
	}
}
