package rpm

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// SQLite, numbers big-endian; sections are those of sqlite.org/fileformat.html. The table that is read is
//
//	CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)
//
// of which the b-tree's rows are taken as they lie there: no SQL of the file is looked at.
const (
	sqliteMagic  = "SQLite format 3\x00"
	sqliteHeader = 100 // bytes of the first page that are before its b-tree

	treeInterior, treeLeaf = 5, 13 // types of pages of tables

	sqliteTable     = "Packages"
	columnsOfSchema = 4 // type, name, tbl_name, rootpage
)

type sqlite struct {
	*pages
	usable uint64 // bytes of a page
}

func readSQLite(b []byte, each func(header []byte) error) error {
	if len(b) < sqliteHeader {
		return errOutside
	}
	size := int(binary.BigEndian.Uint16(b[16:]))
	if size == 1 {
		size = 64 << 10
	}
	reserved := int(b[20])
	if size < 512 || size&(size-1) != 0 || size-reserved < 480 {
		return fmt.Errorf("pages of %d bytes, of which %d are reserved", size, reserved)
	}
	db := sqlite{newPages(b, size), uint64(size - reserved)}
	root := uint64(0)
	err := db.rows(1, 0, func(row []byte) error { // 2.6: the schema
		columns, err := record(row, columnsOfSchema)
		if err != nil {
			return err
		}
		if string(columns[0]) == "table" && string(columns[1]) == sqliteTable {
			root = integer(columns[3])
		}
		return nil
	})
	if err != nil {
		return err
	}
	if root < 2 {
		return errors.New("it has no table " + sqliteTable)
	}
	return db.rows(root, 0, func(row []byte) error {
		columns, err := record(row, 2)
		if err != nil {
			return err
		}
		return each(columns[1])
	})
}

// maxDepth is more than a b-tree of 2^32 pages has.
const maxDepth = 40

// rows calls each with the rows of the b-tree below a page, numbered from 1 (1.6).
func (db sqlite) rows(number uint64, depth int, each func([]byte) error) error {
	if depth > maxDepth || number == 0 {
		return errors.New("a tree is damaged")
	}
	page, err := db.page(number - 1)
	if err != nil {
		return err
	}
	head := page
	if number == 1 {
		head = page[sqliteHeader:]
	}
	kind, cells := head[0], int(binary.BigEndian.Uint16(head[3:]))
	pointers := 8
	if kind == treeInterior {
		pointers = 12
	}
	if (kind != treeLeaf && kind != treeInterior) || pointers+2*cells > len(head) {
		return fmt.Errorf("page %d is damaged", number)
	}
	for i := range cells {
		at := int(binary.BigEndian.Uint16(head[pointers+2*i:]))
		if at+4 > len(page) {
			return errOutside
		}
		if cell := page[at:]; kind == treeInterior {
			err = db.rows(uint64(binary.BigEndian.Uint32(cell)), depth+1, each)
		} else {
			err = db.leaf(cell, each)
		}
		if err != nil {
			return err
		}
	}
	if kind == treeInterior {
		return db.rows(uint64(binary.BigEndian.Uint32(head[8:])), depth+1, each)
	}
	return nil
}

// leaf calls each with a row: its length, its number, what fits into the page, and the page of the rest.
func (db sqlite) leaf(cell []byte, each func([]byte) error) error {
	length, n := varint(cell)
	_, m := varint(cell[n:])
	if n == 0 || m == 0 || length > uint64(len(db.file)) {
		return errors.New("a row is damaged")
	}
	cell = cell[n+m:]
	here := length
	if most := db.usable - 35; length > most { // 1.6: U, X, M, K
		least := (db.usable-12)*32/255 - 23
		if here = least + (length-least)%(db.usable-4); here > most {
			here = least
		}
	}
	row, err := within(cell, 0, here)
	if err != nil {
		return err
	}
	if here == length {
		return each(row)
	}
	next, err := within(cell, here, 4)
	if err != nil {
		return err
	}
	whole := append(make([]byte, 0, length), row...)
	for uint64(len(whole)) < length {
		number := uint64(binary.BigEndian.Uint32(next))
		if number == 0 {
			return errors.New("a row ends too soon")
		}
		page, err := db.page(number - 1)
		if err != nil {
			return err
		}
		next = page
		whole = append(whole, page[4:][:min(db.usable-4, length-uint64(len(whole)))]...)
	}
	return each(whole)
}

// record returns a row's first columns: the length of its head, a type for each column, and then the columns (2.1).
func record(row []byte, columns int) (values [][]byte, err error) {
	damaged := errors.New("a row is damaged")
	length, at := varint(row)
	if at == 0 || length > uint64(len(row)) {
		return nil, damaged
	}
	types, body := row[at:max(uint64(at), length)], row[length:]
	for range columns {
		kind, n := varint(types)
		if n == 0 {
			return nil, damaged
		}
		types = types[n:]
		size := uint64(0)
		switch {
		case kind >= 12:
			size = (kind - 12) / 2 // of bytes and of text
		case kind <= 7:
			size = []uint64{0, 1, 2, 3, 4, 6, 8, 8}[kind]
		}
		value, err := within(body, 0, size)
		if err != nil {
			return nil, damaged
		}
		if kind == 9 {
			value = []byte{1}
		}
		values, body = append(values, value), body[size:]
	}
	return values, nil
}

func integer(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

// varint returns a number of up to 9 bytes, seven bits in each but the last one, which has eight (1.6); 0 bytes:
// there is none.
func varint(b []byte) (n uint64, bytes int) {
	for i, c := range b {
		if i == 8 {
			return n<<8 | uint64(c), 9
		}
		if n = n<<7 | uint64(c&0x7f); c < 0x80 {
			return n, i + 1
		}
	}
	return 0, 0
}
