package boot

import "strings"

// CompareVersions orders kernel versions as people do: runs of digits by their number, the
// rest by its bytes, and a pre-release (~, or -rc before what follows a release) first.
// It returns a negative number, zero or a positive one.
func CompareVersions(a, b string) int {
	for a != "" || b != "" {
		var x, y string
		x, a = cutDigits(a, false)
		y, b = cutDigits(b, false)
		if c := compareText(x, y); c != 0 {
			return c
		}
		x, a = cutDigits(a, true)
		y, b = cutDigits(b, true)
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if len(x) != len(y) {
			return len(x) - len(y)
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// cutDigits cuts the leading run of digits, or of other bytes.
func cutDigits(s string, digits bool) (head, tail string) {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9') == digits {
		i++
	}
	return s[:i], s[i:]
}

// compareText compares what is between numbers. What makes a pre-release sorts before the end
// of the version, all else after it.
func compareText(a, b string) int {
	if a == b {
		return 0
	}
	if p, q := preRelease(a), preRelease(b); p != q {
		if p {
			return -1
		}
		return 1
	}
	return strings.Compare(a, b)
}

func preRelease(s string) bool {
	return strings.HasPrefix(s, "~") || strings.HasPrefix(s, "-rc") || strings.HasPrefix(s, ".rc") ||
		strings.HasPrefix(s, "_rc")
}
