package uki

import (
	"crypto/sha256"
	"errors"
)

// Authenticode returns the SHA-256 digest of an EFI program that a signature for Secure Boot signs: of the file
// without its checksum, the directory entry of its certificates and these themselves, filled up with zeros to a
// multiple of 8 bytes. A signed program has the digest of the unsigned one.
//
// Source: Microsoft's "Windows Authenticode Portable Executable Signature Format", "Calculating the PE Image Hash".
// Sections are taken in the order of the file, without gaps between them, as the linkers of EFI programs and this
// package write them.
func Authenticode(file []byte) (sum [sha256.Size]byte, err error) {
	h, err := parse(file)
	if err != nil {
		return sum, err
	}
	checksum := h.optional + optCheckSum
	if le.Uint32(file[h.optional+optDirectories:]) <= 4 || h.optional+optCertificates+8 > h.table {
		return sum, errors.New("PE file: its headers have no entry for certificates")
	}
	entry := h.optional + optCertificates
	end := len(file)
	if size := le.Uint32(file[entry+4:]); size > 0 {
		// Certificates are the last thing in a file, and the entry has their offset in it.
		at := le.Uint32(file[entry:])
		if at < h.headersSize || int64(at)+int64(size) != int64(end) {
			return sum, errors.New("PE file: its certificates are not at its end")
		}
		end = int(at)
	}
	d := sha256.New()
	d.Write(file[:checksum])
	d.Write(file[checksum+4 : entry])
	d.Write(file[entry+8 : end])
	d.Write(make([]byte, -end&7))
	d.Sum(sum[:0])
	return sum, nil
}
