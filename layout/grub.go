package layout

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Names on the ESP for BIOS, relative to its root.
const (
	GrubConfig = "grub/grub.cfg"
	GrubEnv    = "grub/grubenv"
	// GrubKernelDir holds a folder for each release, named by its id:
	// vmlinuz, initrd, and entry.cfg, see [GrubEntry].
	GrubKernelDir = "kairos"
)

// GrubSlots is the number of releases, besides recovery, that GRUB knows.
const GrubSlots = 3

// GrubState is what GRUB's environment says: the releases in the order in which GRUB
// tries them, and the recovery system. It has the meaning of the names in [UKIDir].
//
//	id1=8f1c0a6bd4f3     release
//	seq1=00000007        its sequence number
//	left1=2              tries left; absent: blessed by a version that did not count those
//	of1=9                tries that it was given; absent: 3, on trial
//	…                    the same for 2 and 3
//	recovery=8f1c0a6bd4f3
//	trial=5d0e8a91c2b7   a new recovery system that has to prove that it comes up
//	trialleft=1          tries left
//	trialof=9            tries that it was given; absent: 1, on trial
//	next=2               the choice for one start: 1, 2, 3, recovery, trial or reset; GRUB removes it
//	stuck=4              how often the recovery system was started in a row, 0 to 6; GRUB counts
//
// The file is one sector of 512 bytes, so that writing it is one operation of the disk.
type GrubState struct {
	Entries  []Entry // at most GrubSlots, the highest seq first
	Recovery string  // release id, or ""
	Trial    Entry   // a recovery system on trial; its ID is "" where there is none
	Next     string  // "1" to "3", "recovery", "trial", "reset" or ""
	Stuck    int     // starts of the recovery system in a row, 0 to grubStuck
}

// grubStuck is the largest number of starts of the recovery system that GRUB counts.
const grubStuck = 6

// grubEnvSize is the size of grubenv in bytes.
const grubEnvSize = 512

const grubSignature = "# GRUB Environment Block\n"

// ParseGrubEnv reads a grubenv file. Variables that are not ours are ignored.
func ParseGrubEnv(b []byte) (GrubState, error) {
	var s GrubState
	rest, ok := bytes.CutPrefix(b, []byte(grubSignature))
	if !ok {
		return s, fmt.Errorf("grubenv: no signature")
	}
	vars := map[string]string{}
	for line := range strings.Lines(strings.TrimRight(string(rest), "#")) {
		k, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if ok {
			vars[k] = v
		}
	}
	for i := 1; i <= GrubSlots; i++ {
		n := strconv.Itoa(i)
		id := vars["id"+n]
		if id == "" {
			continue
		}
		e := Entry{ID: id}
		seq, err := strconv.ParseUint(vars["seq"+n], 10, 32)
		if err != nil || len(vars["seq"+n]) != seqDigits || !ValidID(id) {
			return GrubState{}, fmt.Errorf("grubenv: entry %s: id %q, seq %q", n, id, vars["seq"+n])
		}
		e.Seq = uint32(seq)
		if left, ok := vars["left"+n]; ok && left != "" {
			var given uint8
			switch of := vars["of"+n]; of {
			case "":
				given = Tries
			case strconv.Itoa(BlessedTries):
				given = BlessedTries
			default:
				return GrubState{}, fmt.Errorf("grubenv: entry %s: given %q tries", n, of)
			}
			if len(left) != 1 || !isDigits(left) || left[0]-'0' > given {
				return GrubState{}, fmt.Errorf("grubenv: entry %s: tries left %q", n, left)
			}
			e.Counted, e.Left = true, left[0]-'0'
			e.Done = given - e.Left
		}
		s.Entries = append(s.Entries, e)
	}
	if s.Recovery = vars["recovery"]; s.Recovery != "" && !ValidID(s.Recovery) {
		return GrubState{}, fmt.Errorf("grubenv: recovery %q", s.Recovery)
	}
	if id := vars["trial"]; id != "" {
		left, of := vars["trialleft"], uint8(RecoveryTries)
		if v := vars["trialof"]; v == strconv.Itoa(BlessedTries) {
			of = BlessedTries
		} else if v != "" {
			return GrubState{}, fmt.Errorf("grubenv: recovery on trial: given %q tries", v)
		}
		if !ValidID(id) || len(left) != 1 || !isDigits(left) || left[0]-'0' > of {
			return GrubState{}, fmt.Errorf("grubenv: recovery on trial: id %q, tries left %q", id, left)
		}
		s.Trial = Entry{Seq: RecoverySeq, ID: id, Counted: true, Left: left[0] - '0'}
		s.Trial.Done = of - s.Trial.Left
	}
	if stuck := vars["stuck"]; stuck != "" {
		if len(stuck) != 1 || !isDigits(stuck) || stuck[0]-'0' > grubStuck {
			return GrubState{}, fmt.Errorf("grubenv: stuck %q", stuck)
		}
		s.Stuck = int(stuck[0] - '0')
	}
	switch s.Next = vars["next"]; s.Next {
	case "", "1", "2", "3", "recovery", "trial", "reset":
	default:
		return GrubState{}, fmt.Errorf("grubenv: next %q", s.Next)
	}
	return s, nil
}

// Marshal returns the bytes of grubenv.
func (s GrubState) Marshal() ([]byte, error) {
	if len(s.Entries) > GrubSlots {
		return nil, fmt.Errorf("grubenv: %d entries, more than %d", len(s.Entries), GrubSlots)
	}
	var b bytes.Buffer
	b.WriteString(grubSignature)
	for i, e := range s.Entries {
		given := uint8(Tries)
		if e.Counted && e.Blessed() {
			given = BlessedTries
		}
		if !ValidID(e.ID) || e.Counted && e.Left > given {
			return nil, fmt.Errorf("grubenv: entry %+v", e)
		}
		fmt.Fprintf(&b, "id%d=%s\nseq%d=%0*d\n", i+1, e.ID, i+1, seqDigits, e.Seq)
		if e.Counted {
			fmt.Fprintf(&b, "left%d=%d\n", i+1, e.Left)
			if given != Tries {
				fmt.Fprintf(&b, "of%d=%d\n", i+1, given)
			}
		}
	}
	if s.Recovery != "" {
		fmt.Fprintf(&b, "recovery=%s\n", s.Recovery)
	}
	if t := s.Trial; t.ID != "" {
		given := t.Left + t.Done
		if !ValidID(t.ID) || !t.Counted || given != RecoveryTries && given != BlessedTries {
			return nil, fmt.Errorf("grubenv: recovery on trial %+v", t)
		}
		fmt.Fprintf(&b, "trial=%s\ntrialleft=%d\n", t.ID, t.Left)
		if given != RecoveryTries {
			fmt.Fprintf(&b, "trialof=%d\n", given)
		}
	}
	if s.Next != "" {
		fmt.Fprintf(&b, "next=%s\n", s.Next)
	}
	if s.Stuck < 0 || s.Stuck > grubStuck {
		return nil, fmt.Errorf("grubenv: stuck %d", s.Stuck)
	}
	if s.Stuck > 0 {
		fmt.Fprintf(&b, "stuck=%d\n", s.Stuck)
	}
	if b.Len() > grubEnvSize {
		return nil, fmt.Errorf("grubenv: %d bytes, more than %d", b.Len(), grubEnvSize)
	}
	b.WriteString(strings.Repeat("#", grubEnvSize-b.Len()))
	return b.Bytes(), nil
}
