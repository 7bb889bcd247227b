package secureboot

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Update is a signed change of one of the firmware's variables, as an .auth file has it: what SetVariable takes. Such
// a file names neither the variable nor whether its content is added: the signature does, so it is found out by that.
type Update struct {
	Name       string // PK, KEK, db or dbx
	Vendor     string // its GUID
	Attributes uint32
	// Appends: the content is added to what the variable has, and does not take its place.
	Appends bool
	Content Database
	// Signer is the certificate that is beside the signature. Whether it may sign this, the firmware says.
	Signer *x509.Certificate
	Data   []byte // the file
}

// MaxUpdateSize bounds an .auth file, in bytes: the firmware's memory is small.
const MaxUpdateSize = 256 << 10

// appendWrite is EFI_VARIABLE_APPEND_WRITE.
const appendWrite = 0x40

// variables are those that have lists of signatures, in the order in which a firmware in setup mode is to get them:
// with PK it has an owner.
var variables = []struct{ name, vendor string }{
	{"db", vendorSecurity}, {"dbx", vendorSecurity}, {"KEK", vendorGlobal}, {"PK", vendorGlobal},
}

// Append returns the file that adds to db or dbx. The signer is one of KEK. Each signature of the list is the owner's.
func (s *Signer) Append(name string, d Database, owner GUID, now time.Time) ([]byte, error) {
	if name != "db" && name != "dbx" {
		return nil, fmt.Errorf("firmware's variable %s: want db or dbx", name)
	}
	content := d.Marshal(owner)
	if len(content) == 0 {
		return nil, fmt.Errorf("firmware's variable %s: nothing is to be added", name)
	}
	return s.variable(name, vendorSecurity, content, variableAttributes|appendWrite, now)
}

// ParseUpdate reads an .auth file, and verifies that the key of the certificate beside it has signed it.
func ParseUpdate(b []byte) (u Update, err error) {
	if len(b) > MaxUpdateSize {
		return u, fmt.Errorf("%d bytes, more than %d", len(b), MaxUpdateSize)
	}
	stamp, der, content, err := splitVariable(b)
	if err != nil {
		return u, err
	}
	p, err := parseSigned(der)
	if err != nil {
		return u, err
	}
	if len(p.Signers) != 1 {
		return u, errors.New("signature: want one")
	}
	u.Data = b
	if u.Content, err = ParseDatabase(content); err != nil {
		return u, err
	}
	for _, v := range variables {
		for _, attributes := range []uint32{variableAttributes, variableAttributes | appendWrite} {
			signed, errSigned := signedPart(v.name, v.vendor, attributes, stamp, content)
			if errSigned != nil {
				return u, errSigned
			}
			if u.Signer, err = p.signer(p.Signers[0], signed); err == nil {
				u.Name, u.Vendor, u.Attributes = v.name, v.vendor, attributes
				u.Appends = attributes&appendWrite != 0
				return u, nil
			}
		}
	}
	return u, fmt.Errorf("it is a signed change of none of PK, KEK, db and dbx: %w", err)
}
