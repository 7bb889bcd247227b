package rpm

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Berkeley DB's hash, numbers as in the machine that wrote it. Page 0 has at
//
//	12  magic             20  size of a page           32  number of the last page
//
// and each other page at
//
//	16  next page         20  number of items (2 bytes)    22  bytes of data (2 bytes)    25  type
//	26  offsets of items (2 bytes each), which are from the page's end down: key, value, key, …
//
// An item is a byte with its type and bytes, or has at 4 the first page and at 8 the length of what does not fit
// into a page.
const (
	berkeleyMagic = 0x061561

	berkeleyHeader = 26

	pageHashUnsorted, pageOverflow, pageHash = 2, 7, 13 // types of pages

	itemHere, itemElsewhere = 1, 3 // types of items
)

// berkeleyOrder returns the order of a number's bytes; nil: it is no such database.
func berkeleyOrder(b []byte) binary.ByteOrder {
	if len(b) < 512 {
		return nil
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if order.Uint32(b[12:]) == berkeleyMagic {
			return order
		}
	}
	return nil
}

func readBerkeley(b []byte, each func(header []byte) error) error {
	order := berkeleyOrder(b)
	size := order.Uint32(b[20:])
	if size < 512 || size > 64<<10 || size&(size-1) != 0 {
		return fmt.Errorf("pages of %d bytes", size)
	}
	all := newPages(b, int(size))
	for n := 1; n < len(all.read); n++ {
		// Not by page: what an item is in elsewhere may have been read already, and is none of these.
		page := b[n*all.size:][:all.size]
		if kind := page[25]; kind != pageHash && kind != pageHashUnsorted {
			continue
		}
		items, err := berkeleyItems(page, order)
		if err != nil {
			return fmt.Errorf("page %d: %w", n, err)
		}
		for i := 0; i+1 < len(items); i += 2 {
			if key := items[i]; len(key) == 5 && order.Uint32(key[1:]) == 0 {
				continue // the number of the package that was installed last
			}
			header, err := berkeleyValue(all, items[i+1], order)
			if err != nil {
				return fmt.Errorf("page %d: %w", n, err)
			}
			if err := each(header); err != nil {
				return err
			}
		}
	}
	return nil
}

func berkeleyItems(page []byte, order binary.ByteOrder) (items [][]byte, err error) {
	end := len(page)
	count := int(order.Uint16(page[20:]))
	if berkeleyHeader+2*count > len(page) {
		return nil, errOutside
	}
	for i := range count {
		begin := int(order.Uint16(page[berkeleyHeader+2*i:]))
		if begin < berkeleyHeader+2*count || begin >= end {
			return nil, errors.New("an item is not where its page says")
		}
		items = append(items, page[begin:end])
		end = begin
	}
	return items, nil
}

func berkeleyValue(all *pages, item []byte, order binary.ByteOrder) ([]byte, error) {
	switch {
	case item[0] == itemHere:
		return item[1:], nil
	case item[0] != itemElsewhere || len(item) < 12:
		return nil, fmt.Errorf("an item of type %d", item[0])
	}
	length := uint64(order.Uint32(item[8:]))
	var value []byte
	for next := uint64(order.Uint32(item[4:])); next != 0; {
		page, err := all.page(next)
		if err != nil {
			return nil, err
		}
		part, err := within(page, berkeleyHeader, uint64(order.Uint16(page[22:])))
		if err != nil || page[25] != pageOverflow {
			return nil, errors.New("a page of a value is damaged")
		}
		value = append(value, part...)
		next = uint64(order.Uint32(page[16:]))
	}
	if uint64(len(value)) != length {
		return nil, fmt.Errorf("a value of %d bytes where %d were to be", len(value), length)
	}
	return value, nil
}
