package boot

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
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
	// Apart says that the boot files are signed apart from the build: see [layout.ImageLabelBootSignatures].
	Apart bool

	detached secureboot.DetachedList // where they are apart, and known
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
		if o.Signatures != "" {
			return nil, fmt.Errorf("label %s: the image has no certificate /%s, which says whose signatures these are",
				layout.ImageLabelBootSignatures, layout.ImageSecureBootCert)
		}
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
	switch label := strings.TrimSpace(o.Signatures); label {
	case "":
	case layout.BootSignaturesInRelease:
		s.Apart = true
	default:
		return nil, fmt.Errorf("label %s=%q: want %s", layout.ImageLabelBootSignatures, label,
			layout.BootSignaturesInRelease)
	}
	if s.Apart && len(o.Detached) > 0 {
		if s.detached, err = secureboot.ParseDetached(o.Detached); err != nil {
			return nil, err
		}
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

// Sign returns a boot file as it starts: signed by the private key, PEM, where there is one; and where there is
// none, what the image has under that name, if that is the same file with a good signature. Else it is [ErrNoKey], or,
// where the image's boot files are signed apart, what [SecureBoot.Finish] makes of it.
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
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		if sum, err := uki.Authenticode(have); err == nil && sum == want && s.Check(have) == nil {
			return have, nil
		}
	}
	if s.Apart {
		return s.Finish(name, program)
	}
	return nil, ErrNoKey
}

// Finish returns a boot file of the image with the signature that is apart from it. It stays as it is where it is
// signed, or there is nothing for it yet; a signature that is not of this file, or not by the image's key, is an
// error.
func (s *SecureBoot) Finish(name string, program []byte) ([]byte, error) {
	if s == nil || !s.Apart || uki.Signed(program) {
		return program, nil
	}
	signed, err := s.detached.Attach(name, program, s.Certificate)
	if errors.Is(err, secureboot.ErrUnsigned) {
		return program, nil
	}
	if errors.Is(err, secureboot.ErrOther) {
		err = fmt.Errorf("%w: words that a config adds to the kernel's command line (install.grub_options) are not "+
			"signed: put them into the label %s", err, layout.ImageLabelCmdline)
	}
	if err != nil {
		return nil, fmt.Errorf("/%s: its signature apart from the image is refused: %w; "+
			"`kairos release --uki-key FILE REF` signs it again", name, err)
	}
	return signed, nil
}

// Detached returns the record of those signatures that are on boot files, named by their paths in the image, and are
// apart from the image; nil where there are none.
func (s *SecureBoot) Detached(files map[string][]byte) ([]byte, error) {
	if s == nil || !s.Apart {
		return nil, nil
	}
	var list secureboot.DetachedList
	for name, b := range files {
		if !uki.Signed(b) {
			continue
		}
		one, err := secureboot.Detach(name, b)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(s.detached, func(d secureboot.Detached) bool {
			return d.File == one.File && bytes.Equal(d.Signature, one.Signature)
		}) { // others are in the image
			list = append(list, one)
		}
	}
	if len(list) == 0 {
		return nil, nil
	}
	return list.Marshal()
}

// Check says whether the image's key has signed a boot file, and if not, what to do.
func (s *SecureBoot) Check(program []byte) error {
	err := secureboot.SignedBy(program, s.Certificate)
	switch {
	case err == nil:
		return nil
	case s.Apart:
		return fmt.Errorf("%w: sign it with `kairos release --uki-key FILE REF`, and take the image from where its "+
			"release is", err)
	}
	return fmt.Errorf("%w: build the image again, with the key", err)
}

// CheckAll says whether the image's key has signed all of these boot files, named by their paths in the image, and if
// not, which one and what to do. Where the image has nothing for Secure Boot there is nothing to check.
func (s *SecureBoot) CheckAll(files map[string][]byte) error {
	if s == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := s.Check(files[name]); err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
	}
	return nil
}

// ReadLoader returns an image's systemd-boot, with the signature that is apart from it where that is known.
func (s *SecureBoot) ReadLoader(root fs.FS) ([]byte, error) {
	b, err := tree{root}.readFile(layout.ImageSystemdBoot, maxText)
	if err != nil {
		return nil, err
	}
	return s.Finish(layout.ImageSystemdBoot, b)
}

// Programs returns the boot files that a key signs for Secure Boot, by their paths in the image, as they start: UKI
// and systemd-boot, the former regenerated where it does not fit the image. The options are those that s was read
// with.
func (s *SecureBoot) Programs(root fs.FS, o Options) (map[string][]byte, error) {
	loader, err := s.ReadLoader(root)
	if err != nil {
		return nil, err
	}
	fits, _, err := Check(root, o)
	if err != nil {
		return nil, err
	}
	all := map[string][]byte{layout.ImageSystemdBoot: loader}
	if !fits {
		made, err := Make(root, o)
		if err != nil {
			return nil, err
		}
		all[layout.ImageUKI] = made.UKI
		return all, nil
	}
	b, err := tree{root}.readFile(layout.ImageUKI, maxBootFile)
	if err != nil {
		return nil, err
	}
	all[layout.ImageUKI], err = s.Finish(layout.ImageUKI, b)
	return all, err
}
