package layout

import (
	"bytes"
	"fmt"
	"slices"
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
//	left1=2              tries left; absent: blessed
//	…                    the same for 2 and 3
//	recovery=8f1c0a6bd4f3
//	next=2               one-shot choice: 1, 2, 3 or recovery; GRUB removes it
//
// The file is one sector of 512 bytes, so that writing it is one operation of the disk.
type GrubState struct {
	Entries  []Entry // at most GrubSlots, the highest seq first
	Recovery string  // release id, or ""
	Next     string  // "1" to "3", "recovery" or ""
}

// GrubEnvSize is the size of grubenv in bytes.
const GrubEnvSize = 512

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
			if len(left) != 1 || !isDigits(left) || left[0]-'0' > Tries {
				return GrubState{}, fmt.Errorf("grubenv: entry %s: tries left %q", n, left)
			}
			e.Counted, e.Left = true, left[0]-'0'
			e.Done = Tries - e.Left
		}
		s.Entries = append(s.Entries, e)
	}
	if s.Recovery = vars["recovery"]; s.Recovery != "" && !ValidID(s.Recovery) {
		return GrubState{}, fmt.Errorf("grubenv: recovery %q", s.Recovery)
	}
	switch s.Next = vars["next"]; s.Next {
	case "", "1", "2", "3", "recovery":
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
		if !ValidID(e.ID) || e.Counted && e.Left > Tries {
			return nil, fmt.Errorf("grubenv: entry %+v", e)
		}
		fmt.Fprintf(&b, "id%d=%s\nseq%d=%0*d\n", i+1, e.ID, i+1, seqDigits, e.Seq)
		if e.Counted {
			fmt.Fprintf(&b, "left%d=%d\n", i+1, e.Left)
		}
	}
	if s.Recovery != "" {
		fmt.Fprintf(&b, "recovery=%s\n", s.Recovery)
	}
	if s.Next != "" {
		fmt.Fprintf(&b, "next=%s\n", s.Next)
	}
	if b.Len() > GrubEnvSize {
		return nil, fmt.Errorf("grubenv: %d bytes, more than %d", b.Len(), GrubEnvSize)
	}
	b.WriteString(strings.Repeat("#", GrubEnvSize-b.Len()))
	return b.Bytes(), nil
}

// GrubEntry returns the bytes of a release's entry.cfg: its kernel command line, without
// the words that GRUB adds (kairos.release, kairos.esp, kairos.tries, kairos.role).
func GrubEntry(cmdline string) []byte {
	return []byte("set kairos_cmdline='" + strings.ReplaceAll(strings.TrimSpace(cmdline), "'", `'"'"'`) + "'\n")
}

// GrubDiskConfig returns grub.cfg of an installed disk. It never changes: what boots is in
// grubenv. GRUB counts as systemd-boot does: a release with tries left is given one less
// before it is booted, and one with none is passed over. A release whose files cannot be
// loaded is passed over as well.
func GrubDiskConfig() []byte {
	var b strings.Builder
	b.WriteString(`# Kairos. Do not change: which release boots is in grubenv, see kairos-apply status.
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=1
load_env
probe --set=kairos_esp --part-uuid $root

function kairos_boot {
	source /kairos/$kairos_id/entry.cfg
	echo "Kairos: starting release $kairos_id"
	if linux /kairos/$kairos_id/vmlinuz $kairos_cmdline kairos.release=$kairos_id kairos.esp=$kairos_esp $kairos_words; then
		if initrd /kairos/$kairos_id/initrd; then
			boot
		fi
	fi
	echo "Kairos: release $kairos_id cannot be loaded"
	sleep 3
}

set default=recovery
`)
	// The lowest first, so that the highest wins.
	for _, i := range slices.Backward([]int{1, 2, 3}) {
		fmt.Fprintf(&b, "if [ -n \"$id%[1]d\" -a \"$left%[1]d\" != \"0\" ]; then set default=entry%[1]d; fi\n", i)
	}
	b.WriteString(`if [ -n "$next" ]; then
	if [ "$next" = "recovery" ]; then set default=recovery; else set default=entry$next; fi
	set next=
	save_env next
fi
`)
	for i := 1; i <= GrubSlots; i++ {
		fmt.Fprintf(&b, `
if [ -n "$id%[1]d" ]; then
menuentry "Kairos $id%[1]d" --id entry%[1]d {
	set kairos_id=$id%[1]d
	set kairos_words=
	if [ "$left%[1]d" = "3" ]; then set left%[1]d=2; set kairos_words=kairos.tries=2
	elif [ "$left%[1]d" = "2" ]; then set left%[1]d=1; set kairos_words=kairos.tries=1
	elif [ "$left%[1]d" = "1" ]; then set left%[1]d=0; set kairos_words=kairos.tries=0
	fi
	if [ -n "$kairos_words" ]; then save_env left%[1]d; fi
	kairos_boot
	if [ -z "$kairos_words" ]; then set left%[1]d=0; save_env left%[1]d; fi
	reboot
}
fi
`, i)
	}
	b.WriteString(`
if [ -n "$recovery" ]; then
menuentry "Kairos recovery $recovery" --id recovery {
	set kairos_id=$recovery
	set kairos_words=kairos.role=recovery
	kairos_boot
	reboot
}
fi
`)
	return []byte(b.String())
}
