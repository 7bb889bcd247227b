package boot

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// SecureBoot is what an image has in [layout.ImageSecureBootDir].
type SecureBoot struct {
	// Certificate is of the key that signs the boot files.
	Certificate *x509.Certificate
	// Enrolment are the files that give a firmware in setup mode its keys, by the variables' names; nil where the
	// image has none.
	Enrolment map[string][]byte
	// Enroll is when systemd-boot on a live medium does that: see [layout.ImageLabelEnroll].
	Enroll string
}

// enrolled are the variables that a firmware gets its keys by.
var enrolled = []string{"PK", "KEK", "db"}

// ErrNoKey says that a boot file would have to be signed again.
var ErrNoKey = errors.New("the image's boot files are signed for Secure Boot, and without the key they are not made " +
	"again: build the image with the Kairos frontend and --secret id=" + layout.SecureBootSecret + ",src=…/db.key")

// ReadSecureBoot returns what an image has for Secure Boot; nil where it has no certificate. Whatever else is in that
// folder is an error that names it: a private key that somebody has copied there is in the image.
func ReadSecureBoot(root fs.FS, o Options) (*SecureBoot, error) {
	t := tree{root}
	names, err := t.names(layout.ImageSecureBootDir)
	if err != nil {
		return nil, fmt.Errorf("/%s: %w", layout.ImageSecureBootDir, err)
	}
	if len(names) == 0 {
		return nil, nil
	}
	s := &SecureBoot{Enroll: strings.TrimSpace(o.Enroll)}
	switch s.Enroll {
	case "":
		s.Enroll = layout.EnrollIfSafe
	case layout.EnrollIfSafe, layout.EnrollManual, layout.EnrollForce:
	default:
		return nil, fmt.Errorf("label %s=%q: want %s, %s or %s", layout.ImageLabelEnroll, o.Enroll,
			layout.EnrollIfSafe, layout.EnrollManual, layout.EnrollForce)
	}
	for _, name := range names {
		full := path.Join(layout.ImageSecureBootDir, name)
		if err := s.read(t, full); err != nil {
			return nil, fmt.Errorf("/%s: %w", full, err)
		}
	}
	if s.Certificate == nil {
		return nil, fmt.Errorf("/%s: db.crt is missing, the certificate of the key that signs the boot files",
			layout.ImageSecureBootDir)
	}
	return s, s.checkEnrolment()
}

func (s *SecureBoot) read(t tree, full string) error {
	b, err := t.readFile(full, secureboot.MaxKeySize)
	if err != nil {
		return err
	}
	if full == layout.ImageSecureBootCert {
		s.Certificate, err = secureboot.ParseCertificate(b)
		return err
	}
	for _, variable := range enrolled {
		if full != path.Join(layout.ImageSecureBootDir, variable+".auth") {
			continue
		}
		if _, err := secureboot.ParseEnrolment(variable, b); err != nil {
			return err
		}
		if s.Enrolment == nil {
			s.Enrolment = map[string][]byte{}
		}
		s.Enrolment[variable] = b
		return nil
	}
	return errors.New("it is neither db.crt nor one of PK.auth, KEK.auth, db.auth: remove it, and if it is a " +
		"private key, make new ones: it is in a layer of the image")
}

// checkEnrolment sees to it that a firmware with these keys starts this image.
func (s *SecureBoot) checkEnrolment() error {
	if s.Enrolment == nil {
		return nil
	}
	for _, variable := range enrolled {
		if s.Enrolment[variable] == nil {
			return fmt.Errorf("/%s: %s.auth is missing: firmware gets PK, KEK and db, or none of them",
				layout.ImageSecureBootDir, variable)
		}
	}
	v, err := secureboot.ParseEnrolment("db", s.Enrolment["db"])
	if err != nil {
		return err
	}
	db, err := secureboot.ParseDatabase(v.Content)
	if err != nil {
		return err
	}
	for _, c := range db.Certificates {
		if c.Equal(s.Certificate) {
			return nil
		}
	}
	return fmt.Errorf("/%s: db.auth does not have the certificate db.crt: firmware with it would not start the image",
		layout.ImageSecureBootDir)
}

// Sign returns a boot file as the image has it: signed by the private key, PEM, where there is one; and where there is
// none, what the image has under that name, if that is the same file with a good signature. Else it is [ErrNoKey].
func (s *SecureBoot) Sign(root fs.FS, name string, program, key []byte) ([]byte, error) {
	if key != nil {
		signer, err := secureboot.NewSigner(key, s.Certificate.Raw)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", layout.SecureBootSecret, err)
		}
		signed, err := signer.Sign(program)
		if err != nil {
			return nil, fmt.Errorf("sign /%s: %w", name, err)
		}
		return signed, nil
	}
	want, err := uki.Authenticode(program)
	if err != nil {
		return nil, fmt.Errorf("/%s: %w", name, err)
	}
	have, err := tree{root}.readFile(name, maxBootFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoKey
	}
	if err != nil {
		return nil, err
	}
	if sum, err := uki.Authenticode(have); err != nil || sum != want || s.Check(have) != nil {
		return nil, ErrNoKey
	}
	return have, nil
}

// Check says whether the image's key has signed a boot file.
func (s *SecureBoot) Check(program []byte) error { return secureboot.SignedBy(program, s.Certificate) }

// CheckSecureBoot says whether an image's boot loader, and its UKI, are those that the key of its certificate has
// signed. An image without one has nothing to check.
func CheckSecureBoot(root fs.FS, o Options, program []byte) error {
	s, err := ReadSecureBoot(root, o)
	if err != nil || s == nil {
		return err
	}
	loader, err := tree{root}.readFile(layout.ImageSystemdBoot, maxBootFile)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{layout.ImageUKI, program}, {layout.ImageSystemdBoot, loader}} {
		if err := s.Check(f.data); err != nil {
			return fmt.Errorf("/%s: %w: build the image again, with the key", f.name, err)
		}
	}
	return nil
}
