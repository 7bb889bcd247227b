package accounts

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/go-crypt/crypt"
	"github.com/go-crypt/crypt/algorithm/shacrypt"
)

// hashFormat is a hash as crypt(5) has it: $id$parameters$salt$hash, a yescrypt one included. The hash is long enough
// not to be somebody's password.
var hashFormat = regexp.MustCompile(`^\$(1|2[abxy]?|5|6|7|y|gy|sha1|md5)\$[./A-Za-z0-9=,$+-]*[./A-Za-z0-9]{20,}$`)

// rounds of SHA-512: libc's own number, so that a login takes what it takes elsewhere.
const rounds = 5000

// isHash says whether the text of a password is a hash of crypt(5), or locks the password.
func isHash(s string) bool {
	return hashFormat.MatchString(s) || s == "*" || strings.HasPrefix(s, "!")
}

// Hash returns the hash of a password that is plain, for a config that is kept: old, where that is one of its hashes,
// so that the same config has the same bytes. A password that is a hash stays as it is.
func Hash(password, old string) (string, error) {
	if !isHash(password) && matches(old, password) {
		return old, nil
	}
	return hashed(password, false)
}

// matches says whether a hash as this package makes it is a password's.
func matches(hash, password string) bool {
	d := crypt.NewDecoder()
	if err := shacrypt.RegisterDecoder(d); err != nil {
		return false
	}
	digest, err := d.Decode(hash)
	return err == nil && digest.Match(password)
}

// hashed returns what /etc/shadow keeps of a password.
func hashed(s string, plain bool) (string, error) {
	if !plain && isHash(s) {
		if strings.ContainsAny(s, ":\n") {
			return "", errors.New("password: a hash has no colon and no line break")
		}
		return s, nil
	}
	h, err := shacrypt.New(shacrypt.WithSHA512(), shacrypt.WithIterations(rounds))
	if err != nil {
		return "", fmt.Errorf("password: %w", err)
	}
	digest, err := h.Hash(s)
	if err != nil {
		return "", fmt.Errorf("password: %w", err)
	}
	return digest.Encode(), nil
}
