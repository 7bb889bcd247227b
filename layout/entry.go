package layout

import (
	"fmt"
	"strconv"
	"strings"
)

// Names on the EFI system partition.
const (
	// UKIDir holds the boot entries, as Boot Loader Specification Type #2.
	UKIDir = "EFI/Linux"
	// Tries is the number of boots that a release on trial is given to prove healthy, BlessedTries the number that a
	// blessed one has from one healthy boot to the next. The sum of an entry's counter tells the two apart.
	Tries        = 3
	BlessedTries = 9
	// RecoverySeq is the sequence number of the recovery system: it sorts last. A new one beside it, which has to
	// prove that it comes up, has it, too, and is counted.
	RecoverySeq = 0
	// RecoveryTries is the number of boots that such a one is given.
	RecoveryTries = 1
	// UKIReadme is a file in UKIDir that says what is there. It keeps power cuts from tearing names: FAT keeps a
	// name in dirents of 32 bytes, 16 to a sector, and gives a new name the first dirents that are free. A folder
	// begins with two dirents of its own, this name takes two, each entry's takes four. So
	// an entry lies in one sector, and comes and goes as a whole.
	UKIReadme     = UKIDir + "/README.txt"
	UKIReadmeText = `Each file here is a release of the operating system that this machine can boot:

    kairos-<sequence>-<release>[+<tries left>-<tries used>].efi

The highest sequence is started first, 00000000 is the recovery system. The boot loader counts
tries, kairos-apply does the rest: see "kairos-apply status". Please keep this file as the first one.
`
)

// Entry is the name of a UKI on the ESP:
//
//	kairos-<seq>-<id>+<left>-<done>.efi   left and done add up to 3: on trial; to 9: blessed
//	kairos-<seq>-<id>.efi                 not counted: the recovery system, or blessed by a version before 9 tries
//	kairos-00000000-<id>+1-0.efi          a new recovery system beside the old one: on trial; +9-0: it came up
//
// seq has eight digits, so that names sort by it; left and done have one, so that the
// loader's rename from one try to the next keeps the name's length, which makes it a
// change within one directory sector on FAT, see [UKIReadme]. (Only where a person starts an entry without tries left
// again and again, done becomes 10 and more.) The counter is the Boot Loader
// Specification's "boot counting"; systemd-boot lists the highest seq first, and
// entries with no tries left after all others.
type Entry struct {
	Seq     uint32 // RecoverySeq, or 1 to 99999999
	ID      string // release
	Counted bool   // whether the name has a try counter
	Left    uint8  // tries left, 0 to 9
	Done    uint8  // tries used, 0 to 99
}

// OnTrial is the entry of a release that has to prove healthy.
func OnTrial(seq uint32, id string) Entry { return Entry{Seq: seq, ID: id, Counted: true, Left: Tries} }

// RecoveryOnTrial is the entry of a recovery system that has to prove that it comes up.
func RecoveryOnTrial(id string) Entry {
	return Entry{Seq: RecoverySeq, ID: id, Counted: true, Left: RecoveryTries}
}

// Blessed is the entry of a release that is healthy.
func Blessed(seq uint32, id string) Entry {
	return Entry{Seq: seq, ID: id, Counted: true, Left: BlessedTries}
}

// Blessed says whether the release was healthy once under this entry.
func (e Entry) Blessed() bool { return !e.Counted || e.Left+e.Done == BlessedTries }

const (
	entryPrefix = "kairos-"
	entrySuffix = ".efi"
	seqDigits   = 8
	// MaxSeq is the largest sequence number of an entry.
	MaxSeq = 99_999_999
)

// Bad says whether the loader has given the entry up: counted, and no tries left.
func (e Entry) Bad() bool { return e.Counted && e.Left == 0 }

// String returns the entry's file name.
func (e Entry) String() string {
	counter := ""
	if e.Counted {
		counter = fmt.Sprintf("+%d-%d", e.Left, e.Done)
	}
	return fmt.Sprintf("%s%0*d-%s%s%s", entryPrefix, seqDigits, e.Seq, e.ID, counter, entrySuffix)
}

// ParseEntry reads a file name. It accepts exactly what String makes.
func ParseEntry(name string) (Entry, error) {
	var e Entry
	bad := func() (Entry, error) {
		return Entry{}, fmt.Errorf("boot entry %q: not kairos-<seq>-<id>[+<left>-<done>].efi", name)
	}
	rest, ok := strings.CutPrefix(name, entryPrefix)
	if !ok {
		return bad()
	}
	if rest, ok = strings.CutSuffix(rest, entrySuffix); !ok {
		return bad()
	}
	rest, counter, counted := strings.Cut(rest, "+")
	seq, id, ok := strings.Cut(rest, "-")
	if !ok || len(seq) != seqDigits || !isDigits(seq) || !ValidID(id) {
		return bad()
	}
	n, err := strconv.ParseUint(seq, 10, 32)
	if err != nil {
		return bad()
	}
	e.Seq, e.ID = uint32(n), id
	if counted {
		left, done, ok := strings.Cut(counter, "-")
		if !ok || len(left) != 1 || !isDigits(left) || !isDigits(done) || len(done) > 2 ||
			len(done) == 2 && done[0] == '0' {
			return bad()
		}
		n, _ := strconv.Atoi(done) // one or two digits
		e.Counted, e.Left, e.Done = true, left[0]-'0', uint8(n)
	}
	return e, nil
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
