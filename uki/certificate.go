package uki

import (
	"bytes"
	"errors"
	"fmt"
)

// A WIN_CERTIFICATE is 4 bytes of length with these 8, 2 of revision, 2 of type, and the certificate, filled up to a
// multiple of 8 bytes. Source: Microsoft's PE format, "The Attribute Certificate Table".
const (
	certificateHeader   = 8
	certificateRevision = 0x0200
	pkcsSignedData      = 0x0002
)

// Signed says whether a file has signatures, good or bad ones.
func Signed(file []byte) bool {
	h, err := parse(file)
	return err == nil && h.certificateSize() != 0
}

// Signatures returns the signatures that are attached to an EFI program, each one as PKCS #7 in DER.
func Signatures(file []byte) (list [][]byte, err error) {
	h, err := parse(file)
	if err != nil || h.certificateSize() == 0 {
		return nil, err
	}
	if _, err := Authenticode(file); err != nil {
		return nil, err // they are not at the file's end
	}
	b := file[le.Uint32(file[h.optional+optCertificates:]):]
	for len(b) > 0 {
		if len(b) < certificateHeader {
			return nil, errors.New("PE file: its certificates are cut")
		}
		n := uint64(le.Uint32(b))
		if n < certificateHeader || n > uint64(len(b)) {
			return nil, fmt.Errorf("PE file: a certificate of %d bytes, where %d are", n, len(b))
		}
		if le.Uint16(b[6:]) == pkcsSignedData {
			list = append(list, b[certificateHeader:n])
		}
		b = b[min(align(n, 8), uint64(len(b))):]
	}
	return list, nil
}

// Attach returns an unsigned EFI program with a signature of its digest at its end, as PKCS #7 in DER.
func Attach(file, signature []byte) ([]byte, error) {
	h, err := parse(file)
	if err != nil {
		return nil, err
	}
	if h.certificateSize() != 0 {
		return nil, errSigned
	}
	if _, err := Authenticode(file); err != nil {
		return nil, err // there is no room for the entry
	}
	out := bytes.NewBuffer(make([]byte, 0, len(file)+len(signature)+32))
	out.Write(file)
	pad(out, 8)
	at := out.Len()
	// The length of the one certificate has the bytes that fill it up, as in the files of other tools: readers that
	// go by the directory's entry and those that go by this length see the same.
	n := uint32(align(uint64(certificateHeader+len(signature)), 8))
	b := le.AppendUint32(nil, n)
	b = le.AppendUint16(b, certificateRevision)
	out.Write(le.AppendUint16(b, pkcsSignedData))
	out.Write(signature)
	pad(out, 8)
	signed := out.Bytes()
	entry := signed[h.optional+optCertificates:]
	le.PutUint32(entry, uint32(at))
	le.PutUint32(entry[4:], n)
	field := h.optional + optCheckSum
	le.PutUint32(signed[field:], checksum(signed, field))
	return signed, nil
}
