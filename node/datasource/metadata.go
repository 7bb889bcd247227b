package datasource

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/internal/bounded"
)

// Service is a cloud's metadata service, on an address that only the cloud itself answers.
type Service struct {
	Name string
	// words are what the firmware of its machines says, in lower case, as cloud-init's ds-identify looks for it.
	words []string
	base  string
	// header goes with each request.
	header [2]string
	// token is where a token is fetched from with PUT and the header ttl; it goes with each request in the header use.
	token struct{ path, ttl, use string }

	user   string // path of the user data
	packed bool   // it is in base64
	meta   string // path of metadata as one document, which parse reads
	parse  func([]byte) ([]byte, error)
	name   string // or paths of the host name
	keys   string // and of the public keys, a line each or a JSON list
}

// services are those whose protocol is a GET or two. Each is as its cloud documents it.
var services = []Service{
	{
		Name: "Amazon EC2", words: []string{"amazon", "ec2"}, base: linkLocal,
		token: struct{ path, ttl, use string }{
			"/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token",
		},
		user: "/latest/user-data", name: "/latest/meta-data/local-hostname",
		keys: "/latest/meta-data/public-keys/0/openssh-key",
	},
	{
		Name: "OpenStack", words: []string{"openstack", "opentelekomcloud"}, base: linkLocal,
		user: "/openstack/latest/user_data", meta: "/openstack/latest/meta_data.json", parse: configDrive,
	},
	{
		Name: "Google Compute Engine", words: []string{"google compute engine"},
		base:   linkLocal + "/computeMetadata/v1",
		header: [2]string{"Metadata-Flavor", "Google"},
		user:   "/instance/attributes/user-data", name: "/instance/hostname",
	},
	{
		Name: "Azure", words: []string{"7783-7084-3265-9085-8269-3286-77"}, base: linkLocal,
		header: [2]string{"Metadata", "true"}, packed: true,
		user: "/metadata/instance/compute/userData?api-version=2021-01-01&format=text",
		name: "/metadata/instance/compute/name?api-version=2021-01-01&format=text",
	},
	{
		Name: "DigitalOcean", words: []string{"digitalocean"}, base: linkLocal + "/metadata/v1",
		user: "/user-data", name: "/hostname", keys: "/public-keys",
	},
	{
		Name: "Hetzner Cloud", words: []string{"hetzner"}, base: linkLocal + "/hetzner/v1",
		user: "/userdata", name: "/metadata/hostname", keys: "/metadata/public-keys",
	},
	{
		Name: "Vultr", words: []string{"vultr"}, base: linkLocal,
		user: "/latest/user-data", name: "/latest/meta-data/hostname", keys: "/latest/meta-data/public-keys",
	},
	{
		Name: "Exoscale", words: []string{"exoscale"}, base: linkLocal,
		user: "/latest/user-data", name: "/latest/meta-data/local-hostname", keys: "/latest/meta-data/public-keys",
	},
	{
		Name: "UpCloud", words: []string{"upcloud"}, base: linkLocal + "/metadata/v1",
		user: "/user_data", name: "/hostname", keys: "/public_keys",
	},
	{
		Name: "Alibaba Cloud", words: []string{"alibaba"}, base: "http://100.100.100.200",
		user: "/latest/user-data", name: "/latest/meta-data/hostname",
		keys: "/latest/meta-data/public-keys/0/openssh-key",
	},
}

// linkLocal is where most clouds have the service. No router passes the address on.
const linkLocal = "http://169.254.169.254"

// Detect says whose machine this is, by what its firmware says in a root's /sys.
func Detect(root string) (Service, bool) {
	var b strings.Builder
	for _, name := range []string{
		"sys_vendor", "product_name", "product_serial", "product_version", "chassis_asset_tag",
		"chassis_vendor", "bios_vendor",
	} {
		text, _ := os.ReadFile(filepath.Join(root, "sys/class/dmi/id", name))
		b.WriteString(strings.ToLower(strings.TrimSpace(string(text))) + "\n")
	}
	for _, s := range services {
		for _, w := range s.words {
			if strings.Contains(b.String(), w) {
				return s, true
			}
		}
	}
	return Service{}, false
}

// Fetch asks the service once, and returns what it says as [Find] does. That it has nothing to say is no error.
func (s Service) Fetch(ctx context.Context) ([]Config, error) {
	found, err := s.fetch(ctx)
	if err != nil {
		return nil, fmt.Errorf("metadata of %s: %w", s.Name, err)
	}
	return found, nil
}

func (s Service) fetch(ctx context.Context) (found []Config, err error) {
	header := http.Header{}
	if s.header[0] != "" {
		header.Set(s.header[0], s.header[1])
	}
	if t := s.token; t.path != "" {
		b, err := s.request(ctx, http.MethodPut, t.path, http.Header{t.ttl: {"300"}})
		if err != nil {
			return nil, err
		}
		header.Set(t.use, string(b))
	}
	add := func(name string, data []byte, err error) {
		if err != nil || len(data) > 0 {
			found = append(found, Config{Name: s.Name + ": " + name, Data: data, Err: err})
		}
	}
	meta, err := s.metadata(ctx, header)
	if err != nil {
		return nil, err
	}
	add("metadata", meta, nil)
	b, err := s.request(ctx, http.MethodGet, s.user, header)
	if err != nil {
		return nil, err
	}
	if s.packed {
		if b, err = base64.StdEncoding.DecodeString(strings.TrimSpace(string(b))); err != nil {
			add("user data", nil, err)
			return found, nil
		}
	}
	b, err = userData(b)
	add("user data", b, err)
	return found, nil
}

// metadata returns host name and keys as a cloud-config.
func (s Service) metadata(ctx context.Context, header http.Header) ([]byte, error) {
	if s.meta != "" {
		b, err := s.request(ctx, http.MethodGet, s.meta, header)
		if err != nil || len(b) == 0 {
			return nil, err
		}
		return s.parse(b)
	}
	var text [2][]byte
	for i, path := range []string{s.name, s.keys} {
		if path == "" {
			continue
		}
		var err error
		if text[i], err = s.request(ctx, http.MethodGet, path, header); err != nil {
			return nil, err
		}
	}
	var keys any = string(text[1])
	if bytes.HasPrefix(bytes.TrimSpace(text[1]), []byte("[")) {
		if err := json.Unmarshal(text[1], &keys); err != nil {
			return nil, fmt.Errorf("public keys: %w", err)
		}
	}
	return metadata(string(text[0]), keys)
}

// request returns what the service answers, which is nothing where it has no such thing. It follows no redirection:
// the service answers itself.
func (s Service) request(ctx context.Context, method, path string, header http.Header) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, s.base+path, nil)
	if err != nil {
		return nil, err
	}
	r.Header = header.Clone()
	client := http.Client{
		Transport:     &http.Transport{Proxy: nil, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusNoContent:
		return nil, nil
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: %s", path, res.Status)
	}
	b, err := bounded.ReadAll(res.Body, config.MaxSize)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%s: the answer was interrupted", path)
	}
	return b, err
}
