package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/provision/accounts"
)

// Settings is a file of lines KEY=VALUE with what an image or a config may change about provisioning:
// KAIROS_GITHUB_URL and KAIROS_GITLAB_URL are where public keys come from in place of the public services, as https://
// and a host, with a path where there is one. A key lets somebody log in: plain HTTP is refused.
const Settings = "/etc/kairos/environment"

// keyServices are where public keys of accounts are, as NAME.keys: the setting, and what holds without it.
var keyServices = map[string][2]string{
	"github": {"KAIROS_GITHUB_URL", "https://github.com"},
	"gitlab": {"KAIROS_GITLAB_URL", "https://gitlab.com"},
}

// maxRemoteKeys bounds what an account's keys may be, in bytes.
const maxRemoteKeys = 256 << 10

var accountName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,100}$`)

// remoteKey splits github:NAME.
func remoteKey(k string) (service, name string, ok bool) {
	service, name, ok = strings.Cut(strings.TrimSpace(k), ":")
	_, known := keyServices[service]
	return service, name, ok && known && accountName.MatchString(name)
}

func keyFile(k string) string {
	return layout.FetchedKeys + "/" + strings.ReplaceAll(strings.TrimSpace(k), ":", "-")
}

// remoteKeys are the keys to fetch, by the users' names.
func (s *System) remoteKeys() (remote map[string][]string, err error) {
	b, err := s.root.ReadFile(layout.RunKeys, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &remote)
	}
	if err != nil {
		return nil, fmt.Errorf("keys to fetch: %w", err)
	}
	return remote, nil
}

// noteRemote adds to the keys to fetch.
func (s *System) noteRemote(more map[string][]string) error {
	if len(more) == 0 {
		return nil
	}
	s.remote = true
	remote, err := s.remoteKeys()
	if err != nil {
		return err
	}
	if remote == nil {
		remote = map[string][]string{}
	}
	for user, keys := range more {
		for _, k := range keys {
			if !slices.Contains(remote[user], k) {
				remote[user] = append(remote[user], k)
			}
		}
	}
	b, err := json.Marshal(remote)
	if err != nil {
		return err
	}
	return s.write(layout.RunKeys, b, 0o600)
}

// stagesFetch says whether a step of a stage has keys to fetch.
func stagesFetch(c *config.Config, stage string) bool {
	for _, step := range Steps(c, stage) {
		lists := []*config.Value{step.Value.Key("authorized_keys")}
		for _, name := range step.Value.Key("users").Keys() {
			lists = append(lists, step.Value.Key("users").Key(name))
		}
		for _, l := range lists {
			for _, key := range l.Keys() {
				if slices.ContainsFunc(l.Key(key).Strings(), isRemote) {
					return true
				}
			}
		}
	}
	return false
}

func isRemote(k string) bool {
	_, _, ok := remoteKey(k)
	return ok
}

// FetchKeys fetches the public keys that the config names, and allows them. What was fetched is kept on PERSISTENT, so
// that the next boot needs no network for it. The caller tries again after an error; status shows meanwhile what is
// missing.
func (s *System) FetchKeys(ctx context.Context) error {
	remote, err := s.remoteKeys()
	if err != nil || remote == nil {
		return err
	}
	var errs []error
	for _, user := range slices.Sorted(maps.Keys(remote)) {
		account, err := accounts.Lookup(s.root, user)
		if err != nil {
			errs = append(errs, fmt.Errorf("user %s: %w", user, err))
			continue
		}
		for _, k := range remote[user] {
			lines, err := s.fetchKeys(ctx, k)
			if err == nil {
				err = s.noted().Authorize(account, lines)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("user %s: %s: %w", user, k, err))
			}
		}
	}
	return errors.Join(errors.Join(errs...), s.noteMissing(errs))
}

// noteMissing leaves for status which keys could not be fetched yet.
func (s *System) noteMissing(errs []error) error {
	var missing []layout.Problem
	for _, err := range errs {
		missing = append(missing, layout.Problem{
			Path: "ssh_authorized_keys", Message: "not fetched yet, tried again: " + err.Error(),
		})
	}
	return s.write(layout.RunKeysMissing, layout.MarshalProblems(missing), 0o600)
}

func (s *System) fetchKeys(ctx context.Context, k string) ([]string, error) {
	service, name, ok := remoteKey(k)
	if !ok {
		return nil, errors.New("want github:NAME or gitlab:NAME")
	}
	base := keyServices[service][1]
	if set := s.setting(keyServices[service][0]); set != "" {
		if base = set; !strings.HasPrefix(base, "https://") {
			return nil, fmt.Errorf("%s: %s=%s: want https://", Settings, keyServices[service][0], set)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	b, err := Fetch(ctx, strings.TrimSuffix(base, "/")+"/"+url.PathEscape(name)+".keys", maxRemoteKeys)
	if err != nil {
		return nil, err
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); keyLine.MatchString(line) {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return nil, errors.New("the account has no public keys")
	}
	if s.keeps() {
		if err := s.write(keyFile(k), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// keyLine is a public key without options: nobody else says what a login may do.
var keyLine = regexp.MustCompile(
	`^(ssh-[a-z0-9-]+|ecdsa-sha2-[a-z0-9-]+|sk-[a-z0-9@.-]+) [A-Za-z0-9+/=]+( [^\x00-\x1f]*)?$`,
)

// setting reads one of the settings.
func (s *System) setting(key string) string {
	value := ""
	for line := range strings.Lines(s.text(Settings)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && k == key {
			value = strings.Trim(v, `"'`)
		}
	}
	return value
}

// Fetch gets a file of at most max bytes. No redirection leads from https to http.
func Fetch(ctx context.Context, address string, max int64) ([]byte, error) {
	client := http.Client{CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) > 10 {
			return errors.New("too many redirections")
		}
		if via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
			return fmt.Errorf("redirected from https to %s", r.URL.Scheme)
		}
		return nil
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", address, res.Status)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, max+1))
	if err == nil && int64(len(b)) > max {
		err = fmt.Errorf("%s: more than %d bytes", address, max)
	}
	return b, err
}
