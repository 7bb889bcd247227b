package rpm

import (
	"encoding/binary"
	"errors"
)

// ndb, numbers little-endian:
//
//	"RpmP", version 0, generation, pages of slots    4 bytes each, then 16 of no interest
//	"Slot", package, block, blocks                   4 bytes each, to the end of the pages; package 0: free
//
// and at each slot's block, blocks having 16 bytes:
//
//	"BlbS", package, generation, length              4 bytes each
//	header
const (
	ndbMagic    = "RpmP"
	ndbSlot     = "Slot"
	ndbBlob     = "BlbS"
	ndbHeader   = 32
	ndbPageSize = 4096
	ndbBlock    = 16
)

func readNDB(b []byte, each func(header []byte) error) error {
	if len(b) < ndbHeader {
		return errOutside
	}
	number := binary.LittleEndian.Uint32
	if v := number(b[4:]); v != 0 {
		return errors.New("a version of the format that is not known")
	}
	slots, err := within(b, 0, uint64(number(b[12:]))*ndbPageSize)
	if err != nil {
		return err
	}
	left := uint64(len(b)) // blobs do not overlap
	for at := ndbHeader; at+ndbBlock <= len(slots); at += ndbBlock {
		slot := slots[at:]
		if string(slot[:4]) != ndbSlot {
			return errors.New("a slot is damaged")
		}
		pkg, block := number(slot[4:]), uint64(number(slot[8:]))
		if pkg == 0 {
			continue
		}
		head, err := within(b, block*ndbBlock, ndbBlock)
		if err != nil {
			return err
		}
		if string(head[:4]) != ndbBlob || number(head[4:]) != pkg {
			return errors.New("a package is not where its slot says")
		}
		header, err := within(b, (block+1)*ndbBlock, uint64(number(head[12:])))
		if err != nil {
			return err
		}
		if uint64(len(header))+ndbBlock > left {
			return errors.New("packages overlap")
		}
		left -= uint64(len(header)) + ndbBlock
		if err := each(header); err != nil {
			return err
		}
	}
	return nil
}
