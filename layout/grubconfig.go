package layout

import (
	"fmt"
	"slices"
	"strings"
)

// GrubEntry returns the bytes of a release's entry.cfg: its name in the boot menu, and its kernel command line without
// the words that GRUB adds (kairos.release, kairos.esp, kairos.tries, kairos.role).
func GrubEntry(cmdline, name string) []byte {
	if name = menuText(name, 120); name == "" {
		name = "Kairos"
	}
	return []byte("set kairos_name='" + name + "'\n" +
		"set kairos_cmdline='" + strings.ReplaceAll(strings.TrimSpace(cmdline), "'", `'"'"'`) + "'\n")
}

// grubPauses are the seconds that GRUB waits before it starts the recovery system, by the number of starts in a
// row that came to nothing: 0 to grubStuck.
var grubPauses = [grubStuck + 1]int{0, 10, 30, 60, 120, 300, 600}

const grubHead = `# Kairos. Do not change: which release boots is in grubenv, see kairos-apply status.
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=1
load_env
probe --set=kairos_esp --part-uuid $root

function kairos_boot {
	source /kairos/$kairos_id/entry.cfg
	echo "Kairos: starting release $kairos_id"
	if linux /kairos/$kairos_id/vmlinuz $kairos_cmdline kairos.release=$kairos_id kairos.esp=$kairos_esp` +
	` $kairos_words; then
		if initrd /kairos/$kairos_id/initrd; then
			boot
		fi
	fi
	echo "Kairos: release $kairos_id cannot be loaded"
	sleep 3
}
`

// GrubDiskConfig returns grub.cfg of an installed disk. It never changes: what boots is in
// grubenv. GRUB counts as systemd-boot does: a release with tries left is given one less
// before it is booted, and one with none is passed over. A blessed release that an older version left uncounted has
// used up its tries when it cannot be loaded. Where no release is left it is the recovery system's turn; if that does
// not come up either, the machine says so and waits longer from start to start.
func GrubDiskConfig() []byte {
	var b strings.Builder
	b.WriteString(grubHead)
	b.WriteString("\nfunction kairos_count {\n\tset kairos_left=\n")
	for left := BlessedTries; left > 0; left-- {
		fmt.Fprintf(&b, "\tif [ \"$1\" = \"%d\" ]; then set kairos_left=%d; fi\n", left, left-1)
	}
	b.WriteString("}\n")
	grubNames(&b)
	b.WriteString("\nset default=recovery\n")
	// The lowest first, so that the highest wins.
	for _, i := range slices.Backward([]int{1, 2, 3}) {
		fmt.Fprintf(&b, "if [ -n \"$id%[1]d\" -a \"$left%[1]d\" != \"0\" ]; then set default=entry%[1]d; fi\n", i)
	}
	b.WriteString(`if [ -n "$next" ]; then
	if [ "$next" = "recovery" -o "$next" = "trial" -o "$next" = "reset" ]; then
		set default=$next
	else
		set default=entry$next
	fi
	set next=
	save_env next
fi
`)
	for i := 1; i <= GrubSlots; i++ {
		grubEntry(&b, i, fmt.Sprintf("entry%d", i), "$name%[1]d - $state%[1]d", "")
	}
	grubRecovery(&b, "recovery", "$name_recovery - recovery", "kairos.role=recovery")
	grubTrial(&b)
	for i := 1; i <= GrubSlots; i++ {
		grubEntry(&b, i, fmt.Sprintf("debug%d", i), "$name%[1]d - $state%[1]d, debug", " "+debugWords)
	}
	grubRecovery(&b, "recoverydebug", "$name_recovery - recovery, debug", "kairos.role=recovery "+debugWords)
	grubRecovery(&b, "reset", "$name_recovery - reset: erase what this machine keeps",
		"kairos.role=recovery "+CmdlineReset)
	return []byte(b.String())
}

// grubNames sets what the menu shows of each release: its name, from its own file, and what it is.
func grubNames(b *strings.Builder) {
	b.WriteString("\nset kairos_role=active\n")
	for i := 1; i <= GrubSlots; i++ {
		fmt.Fprintf(b, `if [ -n "$id%[1]d" ]; then
	set kairos_name="Kairos $id%[1]d"
	if [ -f /kairos/$id%[1]d/entry.cfg ]; then source /kairos/$id%[1]d/entry.cfg; fi
	set name%[1]d="$kairos_name"
	if [ "$left%[1]d" = "0" ]; then
		set state%[1]d=failed
	else
		set state%[1]d=$kairos_role
		if [ -n "$left%[1]d" -a "$of%[1]d" != "%[2]d" ]; then set state%[1]d="$kairos_role, on trial"; fi
		if [ "$kairos_role" = "active" ]; then set kairos_role=passive; else set kairos_role=older; fi
	fi
fi
`, i, BlessedTries)
	}
	b.WriteString(`set kairos_name="Kairos $recovery"
if [ -f /kairos/$recovery/entry.cfg ]; then source /kairos/$recovery/entry.cfg; fi
set name_recovery="$kairos_name"
set kairos_name="Kairos $trial"
if [ -n "$trial" -a -f /kairos/$trial/entry.cfg ]; then source /kairos/$trial/entry.cfg; fi
set name_trial="$kairos_name"
`)
}

// grubEntry is an entry of release i, which is counted, with more words for the kernel.
func grubEntry(b *strings.Builder, i int, id, title, words string) {
	fmt.Fprintf(b, "\nif [ -n \"$id%[1]d\" ]; then\nmenuentry \""+title+"\" --id %[2]s {\n", i, id)
	fmt.Fprintf(b, `	set kairos_id=$id%[1]d
	set kairos_words="%[4]s"
	kairos_count "$left%[1]d"
	if [ -n "$kairos_left" ]; then
		set left%[1]d=$kairos_left
		save_env left%[1]d
		if [ "$of%[1]d" != "%[2]d" ]; then set kairos_words="%[3]s=$kairos_left%[4]s"; fi
	fi
	kairos_boot
	if [ -z "$kairos_left" ]; then set left%[1]d=0; save_env left%[1]d; fi
	reboot
}
fi
`, i, BlessedTries, CmdlineTries, words)
}

// GrubTrialID is the entry of a recovery system on trial: a grub.cfg of an older version has none.
const GrubTrialID = "--id trial"

// grubTrial is the entry of a recovery system on trial. Nothing but a choice for one start leads to it.
func grubTrial(b *strings.Builder) {
	fmt.Fprintf(b, `
if [ -n "$trial" ]; then
menuentry "$name_trial - recovery, on trial" %s {
	if [ "$trialof" = "%d" ]; then
		set kairos_words="%s"
	else
		set trialleft=0
		save_env trialleft
		set kairos_words="%[3]s %[4]s=0"
	fi
	set kairos_id=$trial
	kairos_boot
	reboot
}
fi
`, GrubTrialID, BlessedTries, CmdlineRole+"="+RoleRecovery, CmdlineTries)
}

// grubRecovery is an entry of the recovery system, with words for the kernel.
func grubRecovery(b *strings.Builder, id, title, words string) {
	fmt.Fprintf(b, "\nmenuentry \"%s\" --id %s {\n\tset kairos_wait=\n", title, id)
	for n := range grubStuck + 1 {
		was := fmt.Sprint(n)
		if n == 0 {
			was = ""
		}
		fmt.Fprintf(b, "\tif [ \"$stuck\" = \"%s\" ]; then set kairos_next=%d; set kairos_wait=%d; fi\n",
			was, min(n+1, grubStuck), grubPauses[n])
	}
	fmt.Fprintf(b, `	set stuck=$kairos_next
	save_env stuck
	if [ -z "$recovery" ]; then
		echo "Kairos: no release is left to start, and there is no recovery system. Install this machine again."
		echo "Kairos: the next attempt is in 10 minutes."
		sleep --interruptible 600
		reboot
	fi
	if [ "$kairos_wait" != "0" ]; then
		echo "Kairos: the recovery system was started and did not come up. Nothing else is left to start."
		echo "Kairos: repair this machine from a live medium. The next attempt is in $kairos_wait seconds."
		sleep --interruptible $kairos_wait
	fi
	set kairos_id=$recovery
	set kairos_words="%s"
	kairos_boot
	reboot
}
`, words)
}
