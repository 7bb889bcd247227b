package layout

import "strings"

// A distribution's own os-release(5): OSRelease counts, and OSReleaseVendor where there is no such file.
const (
	OSRelease       = "etc/os-release"
	OSReleaseVendor = "usr/lib/os-release"
)

// ReleaseVersion returns the version of an image for people, by its labels and the text of its [ImageRelease]: the
// label io.kairos.version counts more than the file, which an ordinary image on top of a bootable one has from below.
// It is empty where there is neither.
func ReleaseVersion(labels map[string]string, release []byte) string {
	if v := labels[ImageLabelVersion]; v != "" {
		return v
	}
	return ParseOSRelease(release)[ReleaseVersionKey]
}

// ReleaseVersionKey is the key of ImageRelease that has the image's version.
const ReleaseVersionKey = "KAIROS_VERSION"

// ParseOSRelease reads a file in the syntax of os-release(5), such as a distribution's own and
// [ImageRelease]: lines KEY=value, the value quoted as the shell does. What is no such line is
// passed over, and the last line with a key counts.
func ParseOSRelease(b []byte) map[string]string {
	vars := map[string]string{}
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(key, "#") {
			vars[key] = unquoteShell(value)
		}
	}
	return vars
}

// OSReleaseLine returns a line that ParseOSRelease and a shell read. A value has no line breaks.
func OSReleaseLine(key, value string) string {
	return key + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`").Replace(value) + "\"\n"
}

func unquoteShell(s string) string {
	if n := len(s); n >= 2 && (s[0] == '"' || s[0] == '\'') && s[n-1] == s[0] {
		if s[0] == '\'' {
			return s[1 : n-1]
		}
		s = s[1 : n-1]
	}
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\$`, `$`, "\\`", "`").Replace(s)
}
