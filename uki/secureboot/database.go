package secureboot

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// GUID is 16 bytes as the firmware has them: the first three fields are little endian.
type GUID [16]byte

var le = binary.LittleEndian

// Kinds of signatures in a list, UEFI specification 2.10, section 32.4.1.
var (
	kindSHA256     = GUID([]byte("\x26\x16\xc4\xc1\x4c\x50\x92\x40\xac\xa9\x41\xf9\x36\x93\x43\x28"))
	kindX509       = GUID([]byte("\xa1\x59\xc0\xa5\xe4\x94\xa7\x4a\x87\xb5\xab\x15\x5c\x2b\xf0\x72"))
	kindX509SHA256 = GUID([]byte("\x92\xa4\xd2\x3b\xc0\x96\x79\x40\xb4\x20\xfc\xf9\x8e\xf1\x03\xed"))
)

// Database is the content of db or dbx: what this package understands of it. Signatures of other kinds are left out.
type Database struct {
	Certificates []*x509.Certificate
	Programs     [][sha256.Size]byte // Authenticode digests
	// TBS are digests of certificates' signed part, which dbx has.
	TBS [][sha256.Size]byte
}

const listHeader = 28

// ParseDatabase reads lists of signatures, each with
//
//	kind GUID, size of the list, of its header, and of each signature (uint32), header, signatures: {owner GUID, data}
func ParseDatabase(b []byte) (d Database, err error) {
	for len(b) > 0 {
		if len(b) < listHeader {
			return d, errors.New("list of signatures: it is cut")
		}
		size, header, each := uint64(le.Uint32(b[16:])), uint64(le.Uint32(b[20:])), uint64(le.Uint32(b[24:]))
		if size < listHeader+header || size > uint64(len(b)) || each <= 16 || (size-listHeader-header)%each != 0 {
			return d, fmt.Errorf("list of signatures: its sizes %d, %d, %d do not go together", size, header, each)
		}
		kind, list := GUID(b[:16]), b[listHeader+header:size]
		for ; len(list) > 0; list = list[each:] {
			d.add(kind, list[16:each])
		}
		b = b[size:]
	}
	return d, nil
}

func (d *Database) add(kind GUID, data []byte) {
	switch {
	case kind == kindX509:
		if c, err := x509.ParseCertificate(data); err == nil {
			d.Certificates = append(d.Certificates, c)
		}
	case kind == kindSHA256 && len(data) == sha256.Size:
		d.Programs = append(d.Programs, [sha256.Size]byte(data))
	case kind == kindX509SHA256 && len(data) == sha256.Size+16: // and a time
		d.TBS = append(d.TBS, [sha256.Size]byte(data[:sha256.Size]))
	}
}

// Marshal is the inverse of [ParseDatabase], with a list for each certificate and one for the programs. All are the
// owner's.
func (d Database) Marshal(owner GUID) (b []byte) {
	for _, c := range d.Certificates {
		b = append(b, signatureList(kindX509, owner, len(c.Raw), c.Raw)...)
	}
	if len(d.Programs) > 0 {
		var all []byte
		for _, p := range d.Programs {
			all = append(all, p[:]...)
		}
		b = append(b, signatureList(kindSHA256, owner, sha256.Size, all)...)
	}
	if len(d.TBS) > 0 {
		var all []byte
		for _, p := range d.TBS {
			all = append(append(all, p[:]...), make([]byte, 16)...) // no time: at any
		}
		b = append(b, signatureList(kindX509SHA256, owner, sha256.Size+16, all)...)
	}
	return b
}

func signatureList(kind, owner GUID, each int, all []byte) []byte {
	b := slices.Clone(kind[:])
	b = le.AppendUint32(b, uint32(listHeader+len(all)/each*(16+each)))
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, uint32(16+each))
	for ; len(all) > 0; all = all[each:] {
		b = append(append(b, owner[:]...), all[:each]...)
	}
	return b
}

// has says whether a certificate is in it.
func (d Database) has(c *x509.Certificate) bool {
	tbs := sha256.Sum256(c.RawTBSCertificate)
	return slices.ContainsFunc(d.Certificates, func(o *x509.Certificate) bool { return bytes.Equal(o.Raw, c.Raw) }) ||
		slices.Contains(d.TBS, tbs)
}
