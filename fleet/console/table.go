package console

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"
)

// Table is a list of rollouts for people.
func Table(all []Rollout) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NAMESPACE\tNAME\tIMAGE\tVERSION\tPHASE\tPROGRESS\tMESSAGE")
	for _, r := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			r.Namespace, r.Name, r.Image, dash(r.Version), dash(r.Phase), dash(r.Progress), r.Message)
	}
	return flush(w, &b)
}

// Text is a rollout for people, with at most so many of its nodes; 0: all.
func (r Rollout) Text(now time.Time, nodes int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s: %s", r.Namespace, r.Name, r.Image)
	if r.Version != "" || r.Release != "" {
		fmt.Fprintf(&b, " is %s", strings.TrimSpace(r.Version+" "+r.Release))
	}
	fmt.Fprintf(&b, "\n%s", r.Line())
	if r.Wave > 0 {
		fmt.Fprintf(&b, " (wave %d)", r.Wave)
	}
	b.WriteString("\n\n")
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NODE\tWAVE\tSTEP\tFOR\tRUNS\tROLE\tREASON")
	shown := r.Nodes
	if nodes > 0 && len(shown) > nodes {
		shown = shown[:nodes]
	}
	for _, n := range shown {
		since, wave, step := "-", "-", string(n.Step)
		if n.Since != nil {
			since = duration.HumanDuration(max(0, now.Sub(n.Since.Time)))
		}
		if n.Wave > 0 {
			wave = fmt.Sprint(n.Wave)
		}
		if step == "" {
			step = "waits"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, wave, step, since, n.runs(), dash(n.Role), n.Reason)
	}
	text := flush(w, &b)
	if left := len(r.Nodes) - len(shown); left > 0 {
		text += fmt.Sprintf("and %d more\n", left)
	}
	return text
}

// Line is a rollout in one line.
func (r Rollout) Line() string {
	line := dash(r.Phase)
	if r.Progress != "" {
		line += ": " + r.Progress
	}
	if r.Message != "" {
		line += "; " + r.Message
	}
	return line
}

func (n Node) runs() string {
	switch {
	case n.Release == "":
		return "-"
	case !n.Blessed:
		return strings.TrimSpace(n.Version+" "+n.Release) + ", on trial"
	}
	return strings.TrimSpace(n.Version + " " + n.Release)
}

// Screen shows a text in the place of the one before, on a terminal.
type Screen struct {
	Out   io.Writer
	lines int
}

// Show draws a text whose lines are cut at the terminal's width: one that wraps would be two.
func (s *Screen) Show(text string, width int) error {
	var b strings.Builder
	if s.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", s.lines)
	}
	s.lines = 0
	for line := range strings.Lines(text) {
		if cut := []rune(strings.TrimSuffix(line, "\n")); width > 0 && len(cut) > width {
			line = string(cut[:width-1]) + "…\n"
		}
		b.WriteString(line)
		s.lines++
	}
	_, err := io.WriteString(s.Out, b.String())
	return err
}

func flush(w *tabwriter.Writer, b *strings.Builder) string {
	_ = w.Flush() // into memory
	var out strings.Builder
	for line := range strings.Lines(b.String()) {
		out.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return out.String()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
