package uki

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// maxHeaders bounds what is read of a file to find its sections, in bytes.
const maxHeaders = 64 << 10

// What has no place to change.
var (
	errSigned   = errors.New("the file is signed")
	errMeasured = errors.New("the file has signatures for what a TPM measures of it")
)

// Place returns where the content of the first section of a name is in a file of a size in bytes. A file that is
// signed has none: nobody may change it. Nor has one with [PCRSignatures], since they are of its sections.
func Place(file io.ReaderAt, size int64, name string) (off, length int64, err error) {
	head := make([]byte, min(size, maxHeaders))
	if _, err := file.ReadAt(head, 0); err != nil && err != io.EOF {
		return 0, 0, err
	}
	h, err := parseHeaders(head, size)
	if err != nil {
		return 0, 0, err
	}
	if h.certificateSize() != 0 {
		return 0, 0, errSigned
	}
	for _, s := range h.sections {
		if s.name == PCRSignatures {
			return 0, 0, errMeasured
		}
	}
	for _, s := range h.sections {
		if s.name == name {
			return int64(s.offset), int64(min(s.size, s.virtualSize)), nil
		}
	}
	return 0, 0, fmt.Errorf("section %s: there is none", name)
}

// Replace returns a file with other content of the same length in the first section of a name. The file's checksum
// stays what it was: firmware looks at it for drivers only.
func Replace(file []byte, name string, content []byte) ([]byte, error) {
	off, length, err := Place(bytes.NewReader(file), int64(len(file)), name)
	if err != nil {
		return nil, err
	}
	if int64(len(content)) != length {
		return nil, fmt.Errorf("section %s: it has %d bytes, and not %d", name, length, len(content))
	}
	out := bytes.Clone(file)
	copy(out[off:], content)
	return out, nil
}
