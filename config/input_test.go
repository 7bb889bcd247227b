package config

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What is right in a file takes effect, whatever is around it.
func TestInputs(t *testing.T) {
	bomb := "x-a: &a [1,1,1,1,1,1,1,1,1,1]\n"
	for c := 'b'; c < 'k'; c++ {
		p := string(c - 1)
		bomb += fmt.Sprintf(
			"x-%[1]c: &%[1]c [*%[2]s,*%[2]s,*%[2]s,*%[2]s,*%[2]s,*%[2]s,*%[2]s,*%[2]s,*%[2]s,*%[2]s]\n",
			c,
			p,
		)
	}
	for name, tc := range map[string]struct {
		text, hostname, err string
		line                int
	}{
		"empty":           {"", "", "", 0},
		"comments":        {strings.Repeat("# a comment of some length\n", 40_000) + "hostname: n1\n", "n1", "", 0},
		"byte order mark": {"\xef\xbb\xbf#cloud-config\nhostname: n1\n", "n1", "", 0},
		"CRLF":            {"#cloud-config\r\nhostname: n1\r\nstric: 1\r\n", "n1", `did you mean "strict"`, 3},
		"tab":             {"hostname: n1\ninstall:\n\tauto: true\n", "", "use spaces", 3},
		"broken":          {"hostname: n1\na: [\n", "", "not YAML", 2},
		"template":        {"strict: true\nhostname: {{ .MachineID }}\n", "", "put quotes", 2},
		"wrong key":       {"hostnam: n2\nfqdn: n1.example.org\n", "n1", `did you mean "hostname"`, 1},
		"wrong type":      {"hostname: n1\nusers: 3\n", "n1", "want a list", 2},
		"anchors":         {"x-n: &n n1\nhostname: *n\n", "n1", "", 0},
		"merge key":       {"x-i: &i {auto: true}\ninstall: {<<: *i, device: auto}\nhostname: n1", "n1", "", 0},
		"twice":           {"hostname: n1\nhostname: n2\n", "n1", "there twice", 2},
		"documents":       {"hostname: n1\n---\nhostname: n2\n", "n1", "second document", 3},
		"a list":          {"- a\n", "", "a cloud-config is a map", 1},
		"script":          {"#!/bin/sh\n", "", "this is a script", 1},
		"not text":        {"hostname: n1\n\x00", "", "not text", 2},
		"alias of itself": {"hostname: n1\nx-a: &a [*a]\n", "n1", "within what it stands for", 2},
		"aliases":         {"hostname: n1\n" + bomb, "n1", "fewer aliases", 2},
		"deep": {"hostname: n1\nntp: {config: " + strings.Repeat("[", 100) + strings.Repeat("]", 100) +
			"}\n", "n1", "deep", 2},
		"large": {"#" + strings.Repeat("x", MaxSize), "", "at most", 0},
	} {
		c := parse(t, tc.text)
		r := c.Report()
		if c.Hostname() != tc.hostname {
			t.Errorf("%s: hostname %q", name, c.Hostname())
		}
		if tc.err == "" {
			if len(r.Errors) > 0 {
				t.Errorf("%s: %v", name, r.Errors)
			}
			continue
		}
		if len(r.Errors) == 0 || !strings.Contains(r.Errors[0].Error(), tc.err) ||
			tc.line != 0 && r.Errors[0].Pos.Line != tc.line {
			t.Errorf("%s: want %q in line %d, got %v", name, tc.err, tc.line, r.Errors)
		}
	}
}

// One of three files is broken: the others apply, and the report names the file.
func TestMerge(t *testing.T) {
	c := parse(
		t,
		"hostname: a\nruncmd: [x]\ninstall: {bind_mounts: [/a], partitions: {oem: {size: 1}}}\nusers: [{name: u, "+
			"passwd: p, groups: [a]}]",
		"hostname: [",
		"hostname: c\nruncmd: [x]\ninstall: {bind_mounts: [/a, /c], partitions.state.size: 2}\nusers: [{name: u, "+
			"groups: [b]}]",
	)
	if e := c.Report().Errors; len(e) != 1 || e[0].Pos.File != "b.yaml" {
		t.Errorf("%v", e)
	}
	i := c.Install()
	if c.Hostname() != "c" || len(c.RunCmd()) != 2 || len(i.BindMounts) != 2 || len(i.Sizes) != 2 {
		t.Errorf("%+v, %+v", c.RunCmd(), i)
	}
	if u := c.Users(); len(u) != 1 || u[0].Passwd != "p" || len(u[0].Groups) != 2 {
		t.Errorf("%+v", u)
	}
	if c := parse(t, "hostname: a", "hostname: null"); c.Hostname() != "" || c.Report().Err() != nil {
		t.Errorf("null: %q, %v", c.Hostname(), c.Report())
	}
}

// What is read and written again is the same config, and every place is in the file.
func FuzzParse(f *testing.F) {
	f.Add([]byte(first))
	f.Add([]byte("users: [default, {name: default, gecos: x}, default, a]"))
	f.Add([]byte("a: &a [*a]\nusers: [x, {name: 'y', uid: \"7\"}]\n<<: {b: 1}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := Merge(Parse("a", data))
		// Where a line ends for YAML (1.1, 5.4), at most: CR and LF together end one.
		lines := 1
		for _, end := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
			lines += strings.Count(string(data), end)
		}
		r := c.Report()
		for _, e := range r.Errors {
			if e.Pos.Line < 0 || e.Pos.Line > lines {
				t.Errorf("line %d of %d: %v", e.Pos.Line, lines, e)
			}
		}
		for _, a := range r.Applied {
			if a.Pos.Line < 1 || a.Pos.Line > lines {
				t.Errorf("line %d of %d: %s", a.Pos.Line, lines, a.Path)
			}
		}
		c.Users()
		c.WriteFiles()
		c.Kubernetes()
		b, err := c.Value().YAML()
		if err != nil {
			t.Fatal(err)
		}
		again := Merge(Parse("b", b))
		if b2, err := again.Value().YAML(); err != nil || string(b2) != string(b) {
			t.Errorf("%v: was\n%s\nis\n%s\n%v", err, b, b2, again.Report().Errors)
		}
	})
}

// longConfig has 10,000 lines, all of them right.
func longConfig() string {
	return "stages:\n  boot:\n" + strings.Repeat(
		"  - name: a\n    commands:\n    - echo a\n    files:\n    - {path: /a, permissions: 0600}\n",
		2_000,
	)
}

// A config of 10,000 lines is checked in less than a second of the processor's time, whatever is wrong with it.
func TestLongConfigs(t *testing.T) {
	for name, text := range map[string]string{
		"right": longConfig(), "wrong": strings.ReplaceAll(longConfig(), "commands:", "comands:"),
	} {
		if n := strings.Count(text, "\n"); n < 10_000 {
			t.Fatalf("%s: %d lines", name, n)
		}
		least := time.Hour
		for range 3 { // the least is the check's own: others run beside it
			var before, after unix.Rusage
			if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
				t.Fatal(err)
			}
			Merge(Parse("a", []byte(text)))
			if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
				t.Fatal(err)
			}
			used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			least = min(least, time.Duration(used))
		}
		t.Logf("%s: %v", name, least)
		if least > time.Second {
			t.Errorf("%s: it takes %v", name, least)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	text := longConfig()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		Merge(Parse("a", []byte(text)))
	}
}

// unknownKeys is a config with keys that nobody knows, some of them long.
func unknownKeys(n int) []byte {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "hostnam%d%s: x\n", i, strings.Repeat("y", i%200))
	}
	b.WriteString("strickt: true\nstages:\n")
	for i := range n {
		fmt.Fprintf(&b, "  bot%d: [{commands: [x]}]\n", i)
	}
	return []byte(b.String())
}

func BenchmarkUnknownKeys(b *testing.B) {
	text := unknownKeys(10_000)
	for b.Loop() {
		Parse("a", text)
	}
}

// The number of names that are looked for is bounded, and that of errors is not.
func TestManyUnknownKeys(t *testing.T) {
	const n = 2 * maxSuggested
	var suggested, unknown int
	for _, e := range Parse("a", unknownKeys(n)).report.Errors {
		if strings.Contains(e.Message, "the key is not known") {
			unknown++
			if e.Suggestion != "" {
				suggested++
			}
		}
	}
	if unknown != n+1 || suggested == 0 || suggested > maxSuggested {
		t.Errorf("%d unknown keys, %d suggestions", unknown, suggested)
	}
}
