package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/uki/pcr"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// secureBootKeys is `kairos keys new --secure-boot`.
type secureBootKeys struct {
	name    string
	kek, db []string // files of certificates
}

// make writes the keys into a folder that is not there yet.
func (o secureBootKeys) make(dir string, s streams) (err error) {
	now := time.Now()
	kek, err := certificates(o.kek)
	if err != nil {
		return err
	}
	db, err := certificates(o.db)
	if err != nil {
		return err
	}
	keys, err := secureboot.NewKeys(o.name, now)
	if err != nil {
		return err
	}
	enrolment, err := keys.Enrolment(now, kek, db)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return usageError{err}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	for name, k := range map[string]*secureboot.Signer{"PK": keys.PK, "KEK": keys.KEK, "db": keys.DB} {
		private, err := k.KeyPEM()
		if err != nil {
			return err
		}
		base := filepath.Join(dir, name)
		if err := errors.Join(
			writeNew(base+".key", private, 0o600), writeNew(base+".crt", k.CertificatePEM(), 0o644),
			writeNew(base+".auth", enrolment[name], 0o644)); err != nil {
			return err
		}
	}
	if err := makePCRKey(dir); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%s\nKeep the .key files in %s to yourself. The image gets db.crt and the .auth files, "+
		"the build db.key:\n  COPY %s/db.crt %s/*.auth /usr/lib/kairos/secureboot/\n"+
		"  kairos build --secret id=secureboot-key,src=%s …\n"+
		"For signatures of what machines' TPMs measure, the image gets pcr.pub, too, and the build pcr.key:\n"+
		"  COPY %s/pcr.pub /usr/lib/kairos/\n"+
		"  kairos build --secret id=secureboot-key,src=%s --secret id=pcr-key,src=%s …\n",
		secureboot.Name(keys.DB.Certificate), dir, filepath.Base(dir), filepath.Base(dir),
		filepath.Join(dir, "db.key"), filepath.Base(dir), filepath.Join(dir, "db.key"), filepath.Join(dir, "pcr.key"))
	return nil
}

// makePCRKey writes a key that says for which boot files a TPM unseals.
func makePCRKey(dir string) error {
	key, err := rsa.GenerateKey(rand.Reader, pcr.KeyBits)
	if err != nil {
		return err
	}
	private, err := (&secureboot.Signer{Key: key}).KeyPEM()
	if err != nil {
		return err
	}
	return errors.Join(writeNew(filepath.Join(dir, "pcr.key"), private, 0o600),
		writeNew(filepath.Join(dir, "pcr.pub"), pcr.MarshalPublic(&key.PublicKey), 0o644))
}

// enrolled are the firmware's variables with the keys of a folder.
func enrolled(dir string) (list []qemu.Variable, err error) {
	for _, name := range []string{"PK", "KEK", "db"} {
		file := filepath.Join(dir, name+".auth")
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, usageError{err}
		}
		v, err := secureboot.ParseEnrolment(name, b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		list = append(list, qemu.Variable{
			Name: name, Vendor: v.Vendor, Attributes: v.Attributes, Time: v.Time, Data: v.Content,
		})
	}
	return list, nil
}

func certificates(names []string) (list []*x509.Certificate, err error) {
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return nil, usageError{err}
		}
		b, err := bounded.ReadAll(f, secureboot.MaxKeySize)
		f.Close()
		var c *x509.Certificate
		if err == nil {
			c, err = secureboot.ParseCertificate(b)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		list = append(list, c)
	}
	return list, nil
}
