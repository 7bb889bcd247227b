package frontend

import "testing"

// A Dockerfile's own stage goes before the stages that we add.
func TestOwnStageIsFound(t *testing.T) {
	for text, want := range map[string]bool{
		"FROM scratch\n":                     false,
		"FROM scratch AS iso\n":              true,
		"FROM scratch as ISO\n":              true,
		"FROM a AS b\nFROM b AS iso-files\n": false,
		"# syntax=kairos\nARG X=1\nFROM a AS x\nRUN <<EOF\nFROM y AS iso\nEOF\n": false,
	} {
		got, err := hasStage([]byte(text), "iso")
		if err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	if _, err := hasStage([]byte("NOT a Dockerfile"), "iso"); err == nil {
		t.Error("nonsense accepted")
	}
}

func TestTargetIsTakenOut(t *testing.T) {
	given := map[string]string{"target": "iso", "platform": "linux/amd64"}
	got := lastStage{fake{opts: given}}.BuildOpts().Opts
	if _, ok := got["target"]; ok || got["platform"] != "linux/amd64" {
		t.Errorf("options %v", got)
	}
	if given["target"] != "iso" {
		t.Error("the client's own options were changed")
	}
}
