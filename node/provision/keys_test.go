package provision

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// Keys by an account's name come when there is a network, and the next boot needs none for them.
func TestFetchKeys(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFakeFakeFakeFakeFakeFakeFakeFakeFakeFakeFake"
	there := false
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !there || r.URL.Path != "/octo.keys" {
			http.NotFound(w, r)
			return
		}
		// What is no key, or has options that a stranger must not set, is left out.
		w.Write([]byte(key + "\ncommand=\"/bin/sh\" " + key + "\nhello\n"))
	}))
	defer server.Close()
	trust(t, server)
	s, dir := newSystem(t, layout.RoleSystem, map[string]string{
		Settings[1:]: "KAIROS_GITHUB_URL=" + server.URL + "\n",
	})
	c := parse("users: [" + strings.TrimSuffix(userYAML(), "}") + ", ssh_authorized_keys: ['github:octo', own]}]\n")
	if problems := apply(t, s, c); problems != "" {
		t.Fatal(problems)
	}
	file := filepath.Join("home/kairos/.ssh/authorized_keys")
	if got := get(t, dir, file); got != "own\n" {
		t.Errorf("before: %q", got)
	}
	if err := s.FetchKeys(t.Context()); err == nil {
		t.Error("no keys, and no error: nobody tries again")
	}
	if got := get(t, dir, layout.RunKeysMissing); !strings.Contains(got, "user kairos: github:octo: ") {
		t.Errorf("status is not told: %s", got)
	}
	there = true
	for range 2 {
		if err := s.FetchKeys(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := get(t, dir, file); got != "own\n"+key+"\n" {
		t.Errorf("fetched: %q", got)
	}
	if got := get(t, dir, layout.RunKeysMissing); got != "[]\n" {
		t.Errorf("status is told of what is there: %s", got)
	}
	// Another boot, without a network and with another home.
	if err := os.RemoveAll(filepath.Join(dir, "home/kairos/.ssh")); err != nil {
		t.Fatal(err)
	}
	if problems := apply(t, s, c); problems != "" {
		t.Fatal(problems)
	}
	if got := get(t, dir, file); !strings.Contains(got, key) {
		t.Errorf("kept: %q", got)
	}
}

// A stage's keys come by an account's name, too, also those of a stage that runs when the system is up.
func TestFetchKeysOfStages(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFakeFakeFakeFakeFakeFakeFakeFakeFakeFakeFake"
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(key + " " + r.URL.Path + "\n"))
	}))
	defer server.Close()
	trust(t, server)
	s, dir := newSystem(t, layout.RoleSystem, map[string]string{
		Settings[1:]: "KAIROS_GITHUB_URL=" + server.URL + "\n",
	})
	c := parse("users: [" + userYAML() + "]\n" +
		"stages: {boot: [{if: 'false', authorized_keys: {kairos: ['github:no']}}," +
		"{authorized_keys: {kairos: ['github:a']}}, {users: {kairos: {ssh_authorized_keys: ['github:b']}}}]}\n")
	for boot := range 2 {
		if problems := apply(t, s, c); problems != "" {
			t.Fatal(problems)
		}
		if boot == 0 && s.exists(layout.RunKeys) {
			t.Error("keys of a step that has not run")
		}
		if _, err := os.Stat(filepath.Join(dir, layout.RunStages, "network")); err != nil {
			t.Errorf("nobody is going to fetch them: %v", err)
		}
		if problems, err := s.RunStage(t.Context(), c, "boot"); err != nil || len(problems) > 0 {
			t.Fatal(problems, err)
		}
		if err := s.FetchKeys(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := key + " /a.keys\n" + key + " /b.keys\n"
		if got := get(t, dir, "home/kairos/.ssh/authorized_keys"); got != want {
			t.Errorf("boot %d: %q", boot, got)
		}
	}
	// One that runs later fetches them itself.
	c = parse("stages: {reconcile: [{authorized_keys: {kairos: ['github:c']}}]}\n")
	if problems, err := s.RunStage(t.Context(), c, "reconcile"); err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	if got := get(t, dir, "home/kairos/.ssh/authorized_keys"); !strings.Contains(got, "/c.keys") {
		t.Errorf("reconcile: %q", got)
	}
}

// trust has the test's requests trust a server.
func trust(t *testing.T, server *httptest.Server) {
	before := http.DefaultTransport
	http.DefaultTransport = server.Client().Transport
	t.Cleanup(func() { http.DefaultTransport = before })
}

// Whoever answers in place of a key's server logs in: not by plain HTTP.
func TestKeysAreNotFetchedByHTTP(t *testing.T) {
	s, _ := newSystem(t, layout.RoleSystem, map[string]string{
		Settings[1:]: "KAIROS_GITHUB_URL=http://git.example\n",
	})
	c := parse("users: [" + strings.TrimSuffix(userYAML(), "}") + ", ssh_authorized_keys: ['github:octo']}]\n")
	if problems := apply(t, s, c); problems != "" {
		t.Fatal(problems)
	}
	if err := s.FetchKeys(t.Context()); err == nil || !strings.Contains(err.Error(), "want https://") {
		t.Errorf("%v", err)
	}
}

func TestFetchIsNotLedToHTTP(t *testing.T) {
	plain := httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("stranger\n")) }),
	)
	defer plain.Close()
	secure := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer secure.Close()
	trust(t, secure)
	if b, err := Fetch(t.Context(), secure.URL, 100); err == nil ||
		!strings.Contains(err.Error(), "redirected from https to http") {
		t.Errorf("%q, %v", b, err)
	}
	if b, err := Fetch(t.Context(), plain.URL, 100); err != nil || string(b) != "stranger\n" {
		t.Errorf("%q, %v", b, err)
	}
}
