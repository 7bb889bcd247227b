package qemu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Variable is one of the firmware's, as an authenticated variable store has it.
type Variable struct {
	Name       string // ASCII
	Vendor     [16]byte
	Attributes uint32
	Time       [16]byte // EFI_TIME, of one that only newer ones replace
	Data       []byte
}

// A file of variables is a firmware volume, whose header says how long that is itself; a header of the store, 28
// bytes, of which the first 16 are its kind and then the size; and variables, each with a header of 60 bytes, at
// multiples of 4. What was never written has all bits set. Source: EDK2,
// MdeModulePkg/Include/Guid/VariableFormat.h.
const (
	volumeHeaderSize   = 48 // offset of the header's length
	storeHeader        = 28
	variableHeader     = 60
	variableStart      = 0x55aa
	variableAdded      = 0x3f
	variableNameSize   = 36
	variableDataSize   = 40
	authenticatedStore = "\x78\x2c\xf3\xaa\x7b\x94\x9a\x43\xa1\x80\x2e\x14\x4e\xc3\x77\x92"
)

var le = binary.LittleEndian

// addVariables returns a file of variables with some more.
func addVariables(file []byte, list []Variable) ([]byte, error) {
	if len(list) == 0 {
		return file, nil
	}
	if len(file) < volumeHeaderSize+2 || string(file[40:44]) != "_FVH" {
		return nil, errors.New("it is no firmware volume")
	}
	begin := int(le.Uint16(file[volumeHeaderSize:]))
	if begin+storeHeader > len(file) || string(file[begin:begin+16]) != authenticatedStore {
		return nil, errors.New("it has no store of authenticated variables")
	}
	end := begin + int(le.Uint32(file[begin+16:]))
	if end > len(file) {
		return nil, errors.New("its store of variables is cut")
	}
	out := bytes.Clone(file)
	at := begin + storeHeader
	for at+variableHeader <= end && le.Uint16(out[at:]) == variableStart {
		name, data := le.Uint32(out[at+variableNameSize:]), le.Uint32(out[at+variableDataSize:])
		next := int64(variableHeader) + int64(name) + int64(data)
		if int64(at)+next > int64(end) {
			return nil, errors.New("a variable is cut")
		}
		at += int(next+3) &^ 3
	}
	for _, v := range list {
		b := v.marshal()
		if at+len(b) > end {
			return nil, fmt.Errorf("there is no room for the variable %s", v.Name)
		}
		copy(out[at:], b)
		at += (len(b) + 3) &^ 3
	}
	return out, nil
}

func (v Variable) marshal() []byte {
	var name []byte
	for _, c := range append([]byte(v.Name), 0) {
		name = append(name, c, 0)
	}
	b := le.AppendUint16(nil, variableStart)
	b = append(b, variableAdded, 0)
	b = le.AppendUint32(b, v.Attributes)
	b = le.AppendUint64(b, 0) // count
	b = append(b, v.Time[:]...)
	b = le.AppendUint32(b, 0) // index of a public key
	b = le.AppendUint32(b, uint32(len(name)))
	b = le.AppendUint32(b, uint32(len(v.Data)))
	b = append(b, v.Vendor[:]...)
	return append(append(b, name...), v.Data...)
}
