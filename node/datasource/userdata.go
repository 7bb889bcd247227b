package datasource

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/internal/bounded"
)

// maxParts bounds the parts of a message.
const maxParts = 64

// userData returns the cloud-config in user data: as it is, compressed by gzip, or the one such part of a MIME
// message. Other forms are an error that says what to do.
func userData(b []byte) ([]byte, error) {
	if bytes.HasPrefix(b, []byte("\x1f\x8b")) {
		var err error
		if b, err = gunzip(b); err != nil {
			return nil, err
		}
	}
	if h := strings.ToLower(firstLine(b)); strings.HasPrefix(h, "content-type:") ||
		strings.HasPrefix(h, "mime-version:") {
		m, err := mail.ReadMessage(bytes.NewReader(b))
		if err != nil {
			return nil, fmt.Errorf("MIME message: %w", err)
		}
		return message(m)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, nil
	}
	return b, nil // [config.Parse] says what is no cloud-config
}

func gunzip(b []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err == nil {
		b, err = bounded.ReadAll(z, config.MaxSize)
	}
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	return b, nil
}

// message returns the cloud-config of a MIME message. Parts that only cloud-init runs are an error, so that nobody
// believes that they ran.
func message(m *mail.Message) ([]byte, error) {
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		return nil, fmt.Errorf("MIME message: %w", err)
	}
	if !strings.HasPrefix(kind, "multipart/") {
		return part(kind, m.Header.Get("Content-Transfer-Encoding"), m.Body)
	}
	var found []byte
	parts := multipart.NewReader(m.Body, params["boundary"])
	for n := 0; ; n++ {
		p, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("MIME message: %w", err)
		}
		if n == maxParts {
			return nil, fmt.Errorf("MIME message: more than %d parts", maxParts)
		}
		kind, _, err := mime.ParseMediaType(p.Header.Get("Content-Type"))
		if err != nil {
			return nil, fmt.Errorf("MIME message: part %d: %w", n+1, err)
		}
		b, err := part(kind, p.Header.Get("Content-Transfer-Encoding"), p)
		if err != nil {
			return nil, err
		}
		if found != nil {
			return nil, errors.New("MIME message: more than one cloud-config: join them")
		}
		found = b
	}
}

func part(kind, encoding string, body io.Reader) ([]byte, error) {
	if kind != "text/cloud-config" {
		return nil, fmt.Errorf("MIME message: a part is %s, which only cloud-init runs: "+
			"put it into the cloud-config (runcmd:, stages:), or install cloud-init in the image", kind)
	}
	switch strings.ToLower(encoding) {
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	}
	b, err := bounded.ReadAll(body, config.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("MIME message: %w", err)
	}
	return b, nil
}

// noCloud returns what NoCloud's meta-data says as a cloud-config.
func noCloud(b []byte) ([]byte, error) {
	var m struct {
		Hostname string `yaml:"local-hostname"`
		Keys     any    `yaml:"public-keys"`
	}
	if err := yaml.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	return metadata(m.Hostname, m.Keys)
}

// configDrive returns what a config drive's meta_data.json says as a cloud-config.
func configDrive(b []byte) ([]byte, error) {
	var m struct {
		Hostname string `json:"hostname"`
		Keys     any    `json:"public_keys"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	return metadata(m.Hostname, m.Keys)
}

// metadata makes a cloud-config. Keys are one text, a list of them, or a map by names.
func metadata(hostname string, keys any) ([]byte, error) {
	out := map[string]any{}
	if hostname = strings.TrimSpace(hostname); hostname != "" {
		out["hostname"] = hostname
	}
	var list []string
	var add func(any)
	add = func(v any) {
		switch v := v.(type) {
		case string:
			for line := range strings.Lines(v) {
				if line = strings.TrimSpace(line); line != "" {
					list = append(list, line)
				}
			}
		case []any:
			for _, x := range v {
				add(x)
			}
		case map[string]any:
			for _, name := range slices.Sorted(maps.Keys(v)) {
				add(v[name])
			}
		}
	}
	add(keys)
	if len(list) > 0 {
		out["ssh_authorized_keys"] = list
	}
	if len(out) == 0 {
		return nil, nil
	}
	return yaml.Marshal(out)
}
