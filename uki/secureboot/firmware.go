package secureboot

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/kairos-buildkit/kairos/uki"
)

// Vendors of the firmware's variables.
const (
	vendorGlobal   = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	vendorSecurity = "d719b2cb-3d3a-4596-a3bc-dad00e67656f" // of db and dbx
)

// Firmware is what a machine's firmware says about Secure Boot.
type Firmware struct {
	// Enforcing: it starts nothing but what its keys have signed.
	Enforcing bool
	// Setup: it has no owner, and whoever runs on it may give it one.
	Setup bool
	// Allowed and Forbidden are db and dbx.
	Allowed, Forbidden Database
}

// ReadFirmware reads the variables, by a function that returns a variable's content without its attributes, or
// [fs.ErrNotExist]. A firmware without these variables knows no Secure Boot.
func ReadFirmware(read func(name, vendor string) ([]byte, error)) (f Firmware, err error) {
	for _, v := range []struct {
		name, vendor string
		to           func([]byte) error
	}{
		{"SecureBoot", vendorGlobal, flag(&f.Enforcing)},
		{"SetupMode", vendorGlobal, flag(&f.Setup)},
		{"db", vendorSecurity, database(&f.Allowed)},
		{"dbx", vendorSecurity, database(&f.Forbidden)},
	} {
		b, err := read(v.name, v.vendor)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = v.to(b)
		}
		if err != nil {
			return f, fmt.Errorf("firmware's variable %s: %w", v.name, err)
		}
	}
	return f, nil
}

func flag(to *bool) func([]byte) error {
	return func(b []byte) error {
		if len(b) != 1 {
			return fmt.Errorf("%d bytes, and not one", len(b))
		}
		*to = b[0] == 1
		return nil
	}
}

func database(to *Database) func([]byte) error {
	return func(b []byte) (err error) {
		*to, err = ParseDatabase(b)
		return err
	}
}

// Starts says whether the firmware starts a program, and if not, why: by the rules of the UEFI specification 2.10,
// section 32.4.2, as EDK2 carries them out. One that does not enforce starts each.
func (f Firmware) Starts(program []byte) error {
	if !f.Enforcing {
		return nil
	}
	sum, err := uki.Authenticode(program)
	if err != nil {
		return err
	}
	if slices.Contains(f.Forbidden.Programs, sum) {
		return errors.New("the firmware's dbx revokes it")
	}
	if slices.Contains(f.Allowed.Programs, sum) {
		return nil
	}
	list, err := chains(program)
	if err != nil {
		return err
	}
	for _, c := range list {
		if err = f.trusts(c); err == nil {
			return nil
		}
	}
	return err
}

// maxChain bounds the certificates from the signer's to one of db.
const maxChain = 8

// trusts says whether a chain leads to a certificate of db, and none of it is in dbx.
func (f Firmware) trusts(c chain) error {
	at := c.signer
	for range maxChain {
		if f.Forbidden.has(at) {
			return fmt.Errorf("it is signed by %s, and the firmware's dbx revokes %s", Name(c.signer), Name(at))
		}
		if f.Allowed.has(at) {
			return nil
		}
		parent := func(p *x509.Certificate) bool { return !p.Equal(at) && at.CheckSignatureFrom(p) == nil }
		// One of db that is not beside the signature is looked at, too.
		i := slices.IndexFunc(f.Allowed.Certificates, parent)
		if i >= 0 {
			at = f.Allowed.Certificates[i]
			continue
		}
		if i = slices.IndexFunc(c.others, parent); i < 0 {
			break
		}
		at = c.others[i]
	}
	return fmt.Errorf("it is signed by %s, which is none of the firmware's db and has no certificate from one of them",
		Name(c.signer))
}
