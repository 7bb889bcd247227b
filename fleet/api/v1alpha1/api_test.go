package v1alpha1

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// A field of the Kairos project's keeps its name, type and default, and none of ours is required: its users'
// manifests keep working.
func TestFieldsOfKairos(t *testing.T) {
	const none = ""
	for kind, fields := range map[string]map[string][2]string{
		"nodeops": {
			"nodeSelector":                    {"object", none},
			"command":                         {"array", none},
			"hostMountPath":                   {"string", `"/host"`},
			"image":                           {"string", none},
			"imagePullSecrets":                {"array", none},
			"cordon":                          {"boolean", "false"},
			"uncordonOnFailure":               {"boolean", "false"},
			"drainOptions":                    {"object", none},
			"drainOptions.enabled":            {"boolean", "false"},
			"drainOptions.force":              {"boolean", "false"},
			"drainOptions.gracePeriodSeconds": {"integer", none},
			"drainOptions.ignoreDaemonSets":   {"boolean", "true"},
			"drainOptions.deleteEmptyDirData": {"boolean", "false"},
			"drainOptions.timeoutSeconds":     {"integer", none},
			"rebootOnSuccess":                 {"boolean", "false"},
			"backoffLimit":                    {"integer", none},
			"concurrency":                     {"integer", "0"},
			"stopOnFailure":                   {"boolean", "false"},
			"preflight":                       {"object", none},
			"preflight.command":               {"array", none},
			"preflight.image":                 {"string", none},
			"preflight.activeDeadlineSeconds": {"integer", "120"},
		},
		"nodeopupgrades": {
			"nodeSelector":      {"object", none},
			"image":             {"string", none},
			"imagePullSecrets":  {"array", none},
			"concurrency":       {"integer", "0"},
			"stopOnFailure":     {"boolean", none},
			"upgradeRecovery":   {"boolean", none},
			"upgradeActive":     {"boolean", none},
			"force":             {"boolean", none},
			"debug":             {"boolean", none},
			"uncordonOnFailure": {"boolean", none},
			"excludePaths":      {"array", none},
		},
	} {
		spec := schemaOf(t, kind).Properties["spec"]
		for path, want := range fields {
			at := spec
			for _, name := range strings.Split(path, ".") {
				at = at.Properties[name]
			}
			def := none
			if at.Default != nil {
				def = string(at.Default.Raw)
			}
			if got := [2]string{at.Type, def}; got != want {
				t.Errorf("%s: spec.%s: type and default %q, want %q", kind, path, got, want)
			}
		}
		for _, required := range spec.Required {
			if _, ok := fields[required]; !ok {
				t.Errorf("%s: spec.%s is required, and the Kairos project has no such field", kind, required)
			}
		}
	}
	status := schemaOf(t, "nodeops").Properties["status"]
	for _, name := range []string{"phase", "nodeStatuses", "lastUpdated"} {
		if _, ok := status.Properties[name]; !ok {
			t.Errorf("nodeops: no status.%s", name)
		}
	}
	status = schemaOf(t, "nodeopupgrades").Properties["status"]
	for _, name := range []string{"phase", "nodeOpName", "nodeStatuses", "message", "lastUpdated"} {
		if _, ok := status.Properties[name]; !ok {
			t.Errorf("nodeopupgrades: no status.%s", name)
		}
	}
}

func schemaOf(t *testing.T, kind string) apiextensions.JSONSchemaProps {
	t.Helper()
	name := filepath.Join("..", "..", "..", "deploy", "crd", GroupVersion.Group+"_"+kind+".yaml")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensions.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(b, &crd); err != nil {
		t.Fatal(err)
	}
	v := crd.Spec.Versions[0]
	if v.Name != GroupVersion.Version || !v.Served || !v.Storage || v.Subresources == nil ||
		v.Subresources.Status == nil {
		t.Fatalf("%s: version %+v", name, v)
	}
	return *v.Schema.OpenAPIV3Schema
}

// What is written into an annotation is read from it, and what is none is refused.
func TestAnnotations(t *testing.T) {
	record := NodeRecord{
		Rollout: "default/os@1", Target: "t", Wave: 2, Step: StepTrial, Since: metav1.Unix(1, 0).Rfc3339Copy(),
		Image: "i", Release: "r", Version: "v", From: "f", BootID: "b", Attempt: 1, Undo: true, Reason: "why",
	}
	got, err := ParseRecord(map[string]string{AnnotationRecord: record.String()})
	if err != nil || !got.Since.Time.Equal(time.Unix(1, 0)) {
		t.Fatalf("%v, %v", got, err)
	}
	got.Since = record.Since
	if !reflect.DeepEqual(*got, record) {
		t.Errorf("got  %+v\nwant %+v", *got, record)
	}
	op := NodeRecord{Rollout: "default/op@1", Step: StepRunning, Since: record.Since, Job: "j"}
	if got, err := ParseOp(map[string]string{AnnotationOp: op.String()}); err != nil || got.Job != "j" {
		t.Errorf("%v, %v", got, err)
	}
	if r, err := ParseOp(map[string]string{AnnotationRecord: op.String()}); r != nil || err != nil {
		t.Errorf("a rollout's record is a NodeOp's: %v, %v", r, err)
	}
	for value, want := range map[string]string{
		`{"schema":1,"bootID":"b","mode":"installed","new":"field"}`: "",
		`{"schema":2,"bootID":"b"}`:                                  "different versions",
		`{`:                                                          AnnotationReport,
	} {
		r, err := ParseReport(map[string]string{AnnotationReport: value})
		switch {
		case want == "" && (err != nil || r.BootID != "b"):
			t.Errorf("%s: %v, %v", value, r, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want %s", value, err, want)
		}
	}
	if r, err := ParseReport(nil); r != nil || err != nil {
		t.Errorf("without a report: %v, %v", r, err)
	}
	if r, err := ParseRecord(nil); r != nil || err != nil {
		t.Errorf("without a record: %v, %v", r, err)
	}
}

// A report of the largest size that a node may write leaves room in its Node, whose annotations have 256 KiB.
func TestReportIsSmall(t *testing.T) {
	release := NodeRelease{Release: strings.Repeat("a", 12), Version: strings.Repeat("v", 40),
		Image: strings.Repeat("i", 255), Reason: strings.Repeat("r", MaxReason),
		SignedBy: []string{strings.Repeat("k", 64)}}
	report := NodeReport{Schema: ReportSchema, BootID: strings.Repeat("b", 36), Mode: "installed", Booted: &release,
		Active: &release, Passive: &release, Recovery: &release, Failed: []NodeRelease{release, release},
		RecoveryTrial: &NodeRecoveryTrial{State: "pending", NodeRelease: release}}
	if n := len(report.String()); n > 8<<10 {
		t.Errorf("%d bytes", n)
	}
}

// FuzzAnnotations asserts that what is read is written as it was.
func FuzzAnnotations(f *testing.F) {
	f.Add(NodeReport{Schema: ReportSchema, BootID: "b", Booted: &NodeRelease{Release: "r"}}.String())
	f.Add(NodeRecord{Rollout: "a/b@c", Step: StepStaging}.String())
	f.Add(HelperReport{Exit: 6, Reason: "no room"}.String())
	f.Fuzz(func(t *testing.T, value string) {
		if r, err := ParseReport(map[string]string{AnnotationReport: value}); err == nil && r != nil {
			same(t, *r, func(s string) (NodeReport, error) {
				r, err := ParseReport(map[string]string{AnnotationReport: s})
				return *r, err
			})
		}
		if r, err := ParseRecord(map[string]string{AnnotationRecord: value}); err == nil && r != nil {
			same(t, *r, func(s string) (NodeRecord, error) {
				r, err := ParseRecord(map[string]string{AnnotationRecord: s})
				return *r, err
			})
		}
		if r, err := ParseHelperReport(value); err == nil {
			same(t, r, ParseHelperReport)
		}
	})
}

func same[T interface{ String() string }](t *testing.T, v T, parse func(string) (T, error)) {
	t.Helper()
	again, err := parse(v.String())
	if err != nil {
		t.Fatalf("%s: %v", v, err)
	}
	if again.String() != v.String() {
		t.Errorf("%s became %s", v, again)
	}
	if !json.Valid([]byte(v.String())) {
		t.Errorf("no JSON: %s", v)
	}
}

func TestEnded(t *testing.T) {
	for step, want := range map[Step]bool{
		StepStaging: false, StepStaged: false, StepCordoning: false, StepRestarting: false, StepTrial: false,
		StepPreflight: false, StepStarting: false, StepRunning: false, StepCompleted: true, StepSkipped: true,
		StepRecovery: false, StepBlessed: true, StepFellBack: true, StepFailed: true, StepRolledBack: true,
	} {
		if step.Ended() != want {
			t.Errorf("%s: %v", step, !want)
		}
	}
}
