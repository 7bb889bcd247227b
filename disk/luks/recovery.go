package luks

import (
	"crypto/rand"
	"strings"
)

// modhex are the digits of recovery keys, which are at the same place on most keyboards.
const modhex = "cbdefghijklnrtuv"

// NewRecoveryKey returns 256 random bits as systemd-cryptenroll writes them: eight groups of eight letters. The text
// is the keyslot's secret.
func NewRecoveryKey() string {
	b := make([]byte, 32)
	rand.Read(b)
	var s strings.Builder
	for i, c := range b {
		if i > 0 && i%4 == 0 {
			s.WriteByte('-')
		}
		s.WriteByte(modhex[c>>4])
		s.WriteByte(modhex[c&15])
	}
	return s.String()
}

// RecoveryKey returns what was typed as [NewRecoveryKey] writes it, and whether it is a recovery key: the case of the
// letters, and what separates them, do not matter.
func RecoveryKey(typed string) (string, bool) {
	var s strings.Builder
	n := 0
	for _, c := range strings.ToLower(typed) {
		if c == '-' || c == ' ' || c == '\t' {
			continue
		}
		if !strings.ContainsRune(modhex, c) {
			return "", false
		}
		if n > 0 && n%8 == 0 {
			s.WriteByte('-')
		}
		s.WriteRune(c)
		n++
	}
	return s.String(), n == 64
}
