package agent

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// What a report has at most: a fleet's objects stay small.
const (
	maxWord     = 64 // bytes of a version, a role, a key's name
	maxImage    = 255
	maxFailed   = 2
	maxProblems = 4
	maxSigners  = 8
)

// reportOf is what a node's status says, in as many bytes as a Node has room for.
func reportOf(s api.Status, bootID string) v1alpha1.NodeReport {
	r := v1alpha1.NodeReport{
		Schema: v1alpha1.ReportSchema, BootID: bootID, Mode: s.Mode, Firmware: s.Firmware, Role: role(s),
		Booted: release(s.Booted), Active: release(s.Active), Passive: release(s.Passive),
		Recovery:       release(s.Recovery),
		PendingRestart: s.Booted != nil && s.Active != nil && s.Booted.Release != s.Active.Release,
	}
	if t := s.RecoveryTrial; t != nil {
		r.RecoveryTrial = &v1alpha1.NodeRecoveryTrial{State: t.State, NodeRelease: *release(&t.Slot)}
	}
	for i := range s.Failed[:min(len(s.Failed), maxFailed)] {
		r.Failed = append(r.Failed, *release(&s.Failed[i]))
	}
	if s.Persistent == api.PersistentInMemory {
		r.Problems = append(r.Problems, "PERSISTENT cannot be used: nothing is kept over a restart")
	}
	for _, p := range s.ConfigProblems {
		r.Problems = append(r.Problems, strings.TrimPrefix(p.Where+": "+p.Message, ": "))
	}
	r.Problems = append(r.Problems, s.Problems...)
	r.Problems = r.Problems[:min(len(r.Problems), maxProblems)]
	for i, p := range r.Problems {
		r.Problems[i] = v1alpha1.Bounded(p, v1alpha1.MaxReason)
	}
	return r
}

func release(s *api.Slot) *v1alpha1.NodeRelease {
	if s == nil {
		return nil
	}
	r := &v1alpha1.NodeRelease{
		Release: s.Release, Version: v1alpha1.Bounded(s.Version, maxWord), Image: v1alpha1.Bounded(s.Image, maxImage),
		Blessed: s.Blessed, TriesLeft: s.TriesLeft, TriesUsed: s.TriesUsed,
	}
	switch {
	case s.Failure != nil:
		r.Reason = s.Failure.Reason
	case s.Problem != "":
		r.Reason = s.Problem
	case s.Refused != "":
		r.Reason = s.Refused
	}
	r.Reason = v1alpha1.Bounded(r.Reason, v1alpha1.MaxReason)
	for _, k := range s.Signatures {
		if !k.Trusted || len(r.SignedBy) == maxSigners {
			continue // anybody can put a signature there
		}
		name := k.Name
		if name == "" {
			name = k.ID
		}
		r.SignedBy = append(r.SignedBy, v1alpha1.Bounded(name, maxWord))
	}
	return r
}

// role is that of the release that runs.
func role(s api.Status) string {
	switch {
	case s.Mode == api.ModeLive, s.Mode == api.ModeRecovery:
		return s.Mode
	case s.Mode != api.ModeInstalled:
		return ""
	case s.Booted != nil && s.Passive != nil && s.Booted.Release == s.Passive.Release:
		return "passive"
	}
	return "active"
}

// keys are the labels and annotations of a report, as a Node has them. nil: there is none.
func keys(r v1alpha1.NodeReport) (labels, annotations map[string]any) {
	state := map[string]string{"": "unknown", api.ModeLive: "livecd"}
	word, ok := state[r.Role]
	if !ok {
		word = r.Role
	}
	labels = map[string]any{
		v1alpha1.LabelManaged: "true", v1alpha1.LabelBootState: word,
		v1alpha1.LabelRelease: nil, v1alpha1.LabelTrial: nil,
	}
	annotations = map[string]any{v1alpha1.AnnotationReport: r.String(), v1alpha1.AnnotationVersion: nil}
	if r.Booted != nil {
		labels[v1alpha1.LabelRelease] = r.Booted.Release
		labels[v1alpha1.LabelTrial] = fmt.Sprint(onTrial(r))
		annotations[v1alpha1.AnnotationVersion] = r.Booted.Version
	}
	return labels, annotations
}

func onTrial(r v1alpha1.NodeReport) bool {
	return r.Mode == api.ModeInstalled && r.Booted != nil && !r.Booted.Blessed
}

// condition says in a Node's words how healthy the release is that runs. Its times are left open.
func condition(r v1alpha1.NodeReport) corev1.NodeCondition {
	c := corev1.NodeCondition{Type: v1alpha1.ConditionRelease, Status: corev1.ConditionFalse}
	switch {
	case r.Mode == api.ModeLive:
		c.Reason, c.Message = v1alpha1.ReasonLive, "a live medium runs"
	case r.Mode == api.ModeRecovery:
		c.Reason, c.Message = v1alpha1.ReasonRecovery, "the recovery system runs"+failure(r, ": ")
	case r.Mode != api.ModeInstalled || r.Booted == nil:
		return unknown("this machine was not started by Kairos")
	case onTrial(r):
		c.Reason = v1alpha1.ReasonOnTrial
		c.Message = fmt.Sprintf("%s has to prove healthy, and has %d more tries", name(*r.Booted), r.Booted.TriesLeft)
	case len(r.Failed) > 0:
		c.Reason, c.Message = v1alpha1.ReasonFellBack, failure(r, "")+"; "+name(*r.Booted)+" runs"
	default:
		c.Status, c.Reason = corev1.ConditionTrue, v1alpha1.ReasonBlessed
		c.Message = name(*r.Booted) + " has proved healthy"
		if r.PendingRestart {
			c.Message += "; " + name(*r.Active) + " boots next"
		}
	}
	return c
}

// unknown is the condition of a node that says nothing, and why.
func unknown(why string) corev1.NodeCondition {
	return corev1.NodeCondition{Type: v1alpha1.ConditionRelease, Status: corev1.ConditionUnknown,
		Reason: v1alpha1.ReasonUnknown, Message: v1alpha1.Bounded(why, v1alpha1.MaxReason)}
}

// failure says which release failed, and why, behind a separator; nothing where none did.
func failure(r v1alpha1.NodeReport, separator string) string {
	if len(r.Failed) == 0 {
		return ""
	}
	f := r.Failed[0]
	why := f.Reason
	if why == "" {
		why = "it has left no reason"
	}
	return separator + name(f) + " failed: " + why
}

func name(r v1alpha1.NodeRelease) string {
	if r.Version == "" {
		return r.Release
	}
	return r.Version + " (" + r.Release + ")"
}
