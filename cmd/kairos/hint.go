package main

import "strings"

// hint says what to do about an error that BuildKit words, "" where its words say enough. The
// errors come over its API: their text is all that there is of them.
func hint(err error) string {
	text := err.Error()
	for _, missing := range []string{
		"failed to do request", "pull access denied", "failed to fetch anonymous token", "failed to authorize",
	} {
		if strings.Contains(text, missing) {
			return "Is the image's name right, its registry reachable, and are you logged in there " +
				"(`docker login`)? An image on this machine takes its place with --build-context " +
				"NAME=oci-layout://FOLDER"
		}
	}
	return ""
}
