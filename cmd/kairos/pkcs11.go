package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
)

const (
	pkcs11Scheme = "pkcs11:"
	// pkcs11PIN is the environment's variable with a token's PIN, where the URI names no file of it.
	pkcs11PIN = "KAIROS_PKCS11_PIN"
	// pkcs11Timeout bounds one call: some tokens wait for a finger.
	pkcs11Timeout = 2 * time.Minute
)

// token is a private key on a device, by its URI (RFC 7512). OpenSC's pkcs11-tool talks to it: Go needs cgo for a
// device's library, and this program is linked statically, as its own frontend.
type token struct {
	uri, module, label, id, object, pin string
	public                              trust.PublicKey
}

// parseToken reads a URI, such as pkcs11:token=release;id=%01?module-path=/usr/lib/x.so&pin-source=file:/run/pin.
func parseToken(uri string) (*token, error) {
	t := &token{uri: uri}
	rest, ok := strings.CutPrefix(uri, pkcs11Scheme)
	if !ok {
		return nil, usagef("%s: want %s", uri, pkcs11Scheme)
	}
	attrs, query, _ := strings.Cut(rest, "?")
	for _, part := range []struct{ text, sep string }{{attrs, ";"}, {query, "&"}} {
		for field := range strings.SplitSeq(part.text, part.sep) {
			if field == "" {
				continue
			}
			key, value, _ := strings.Cut(field, "=")
			value, err := url.PathUnescape(value)
			if err != nil {
				return nil, usagef("%s…: %s: %w", pkcs11Scheme, key, err)
			}
			if err := t.set(key, value); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case t.module == "":
		return nil, usagef("%s: which library? Add ?module-path=/usr/lib/…/LIBRARY.so", uri)
	case !filepath.IsAbs(t.module):
		return nil, usagef("%s: module-path: want a path that begins with /", uri)
	case t.label == "":
		return nil, usagef("%s: which token? Add token=LABEL", uri)
	case t.id == "": // pkcs11-tool signs with the first key that it meets where it is asked for a label
		return nil, usagef("%s: which key? Add id=%%01, with the two hex digits of each byte of its CKA_ID", uri)
	}
	if t.pin == "" {
		t.pin = os.Getenv(pkcs11PIN)
	}
	return t, nil
}

func (t *token) set(key, value string) error {
	switch key {
	case "token":
		t.label = value
	case "id":
		t.id = hex.EncodeToString([]byte(value))
	case "object":
		t.object = value
	case "type":
		if value != "private" && value != "public" {
			return usagef("%stype=%s: want private", pkcs11Scheme, value)
		}
	case "module-path":
		t.module = value
	case "pin-source":
		f, err := os.Open(strings.TrimPrefix(value, "file:"))
		if err != nil {
			return usagef("pin-source: %w", err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, 1<<10))
		if err != nil {
			return fmt.Errorf("pin-source: %w", err)
		}
		t.pin = strings.TrimRight(string(b), "\r\n")
	case "pin-value": // the value is not repeated
		return usagef("%s…: pin-value is seen by everybody on this machine: use pin-source=file:PATH, or the "+
			"environment's %s", pkcs11Scheme, pkcs11PIN)
	default:
		return usagef("%s…: the attribute %q is not known: use token, id, object, module-path, pin-source",
			pkcs11Scheme, key)
	}
	return nil
}

// openToken finds the key, and makes it one that signs.
func openToken(uri string) (sign.Key, error) {
	t, err := parseToken(uri)
	if err != nil {
		return sign.Key{}, err
	}
	fail := func(err error) (sign.Key, error) { return sign.Key{}, fmt.Errorf("%s: %w", uri, err) }
	b, err := t.run(nil, "--read-object", "--type", "pubkey")
	if err != nil {
		return fail(fmt.Errorf("read the public key: %w", err))
	}
	if !bytes.HasPrefix(b, []byte("-----")) { // some kinds of keys come as PEM, some as DER
		b = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: b})
	}
	if t.public, err = trust.ParsePublicKey(b); err != nil {
		return fail(err)
	}
	k, err := sign.NewSigner(t)
	if err != nil {
		return fail(err)
	}
	return k, nil
}

// Public implements [crypto.Signer].
func (t *token) Public() crypto.PublicKey {
	if t.public.Algorithm == trust.Ed25519 {
		return ed25519.PublicKey(t.public.Raw)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), t.public.Raw)
	if err != nil {
		return nil
	}
	return key
}

// Sign implements [crypto.Signer]: of a text for ed25519, of a digest for ECDSA.
func (t *token) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	args := []string{"--sign", "--login", "--mechanism"}
	if t.public.Algorithm == trust.Ed25519 {
		args = append(args, "EDDSA")
	} else {
		args = append(args, "ECDSA", "--signature-format", "openssl")
	}
	b, err := t.run(digest, args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.uri, err)
	}
	return b, nil
}

// run calls pkcs11-tool, and returns what it writes. The PIN goes by the environment, where no other user sees it.
func (t *token) run(input []byte, args ...string) (out []byte, err error) {
	dir, err := os.MkdirTemp("", "kairos-pkcs11-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	to := filepath.Join(dir, "out")
	args = append(args, "--module", t.module, "--token-label", t.label, "--id", t.id, "--output-file", to)
	if t.object != "" {
		args = append(args, "--label", t.object)
	}
	if input != nil {
		from := filepath.Join(dir, "in")
		if err := os.WriteFile(from, input, 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--input-file", from)
	}
	env := os.Environ()
	if t.pin != "" {
		args = append(args, "--pin", "env:"+pkcs11PIN)
		env = append(env, pkcs11PIN+"="+t.pin)
	}
	ctx, cancel := context.WithTimeout(context.Background(), pkcs11Timeout)
	defer cancel()
	c := exec.CommandContext(ctx, "pkcs11-tool", args...)
	c.Env = env
	said, err := c.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errors.New("pkcs11-tool is missing, which talks to the token: install it, for example " +
			"`apt-get install opensc`")
	}
	if err != nil {
		return nil, fmt.Errorf("pkcs11-tool: %w: %s", err, strings.TrimSpace(string(said)))
	}
	if out, err = os.ReadFile(to); err != nil || len(out) == 0 {
		return nil, fmt.Errorf("pkcs11-tool found no such key: %s", strings.TrimSpace(string(said)))
	}
	return out, nil
}
