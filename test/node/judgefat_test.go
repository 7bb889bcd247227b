//go:build vm

package node

import (
	"regexp"
	"slices"
	"strings"

	klayout "github.com/kairos-buildkit/kairos/layout"
)

// harmlessFAT are the lines of `fsck.vfat -n` that a file system has which was in use when the power
// went. All else is a fault.
var harmlessFAT = []*regexp.Regexp{
	// Its name and version, its totals, and that it did as it was told.
	regexp.MustCompile(`^fsck\.fat \d`),
	regexp.MustCompile(`^/dev/\S+: \d+ files, \d+/\d+ clusters$`),
	regexp.MustCompile(`^Leaving filesystem unchanged\.$`),
	// The kernel sets the dirty bit in the boot sector, not in its copy, while the file system is mounted
	// for writing. Nothing that boots looks at it.
	regexp.MustCompile(`^Dirty bit is set\. Fs was not properly unmounted and some data may be corrupt\.$`),
	regexp.MustCompile(`^\s*Automatically removing dirty bit\.$`),
	regexp.MustCompile(`^There are differences between boot sector and its backup\.$`),
	regexp.MustCompile(`^This is mostly harmless\. Differences: \(offset:original/backup\)$`),
	regexp.MustCompile(`^\s*65:01/00$`),
	regexp.MustCompile(`^\s*Not automatically fixing this\.$`),
	// FSInfo's count is brought up to date at unmount. Linux does not use it (vfat's option usefree is
	// off), firmware and loaders allocate nothing.
	regexp.MustCompile(`^Free cluster summary wrong \(\d+ vs\. really \d+\)$`),
	regexp.MustCompile(`^\s*Auto-correcting\.$`),
}

// inFlightFAT are further lines that are harmless where writes were on their way: FAT has no journal, so
// the two tables and the folder of a file that is being written or removed go to the disk one by one.
// The first table is the one that firmware, GRUB and Linux read, and by it every file that boots is
// compared, to the last byte; so what is torn is a file that was not in use yet, or no more.
var inFlightFAT = []*regexp.Regexp{
	regexp.MustCompile(`^FATs differ but appear to be intact\.$`),
	regexp.MustCompile(`^\s*Using first FAT\.$`),
	regexp.MustCompile(`^Reclaimed \d+ unused clusters? \(\d+ bytes\)\.?$`),
}

// unusedFAT are the files and folders that no loader looks at. Where writes were on their way, they may be anything,
// and the next command takes away their names without a look at the rest.
func unusedFAT(used []klayout.Entry) func(path string) bool {
	return func(path string) bool {
		if strings.HasSuffix(path, ".tmp") {
			return true
		}
		inside, ok := strings.CutPrefix(path, "/"+klayout.GrubKernelDir+"/")
		id, _, _ := strings.Cut(inside, "/")
		return ok && klayout.ValidID(id) &&
			!slices.ContainsFunc(used, func(e klayout.Entry) bool { return e.ID == id })
	}
}

// fatProblem returns the first line that is a fault, or "". What it says of a file or folder is its path, and then
// lines that are indented.
func fatProblem(lines []string, inFlight bool, unused func(path string) bool) string {
	allowed := slices.Clone(harmlessFAT)
	if inFlight {
		allowed = append(allowed, inFlightFAT...)
	}
	skip := false
	for _, line := range lines {
		if path, ok := strings.CutPrefix(line, "/"); ok {
			skip = inFlight && unused("/"+path)
		} else if !strings.HasPrefix(line, " ") {
			skip = false
		}
		harmless := skip || strings.TrimSpace(line) == ""
		for _, re := range allowed {
			harmless = harmless || re.MatchString(line)
		}
		if !harmless {
			return line
		}
	}
	return ""
}
