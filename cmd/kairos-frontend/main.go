// kairos-frontend is the program in the image that `# syntax=kairos` names.
package main

import (
	"os"

	"github.com/moby/buildkit/util/appcontext"

	"github.com/kairos-buildkit/kairos/frontend"
	"github.com/kairos-buildkit/kairos/internal/mediumstep"
)

func main() {
	os.Exit(frontend.Main(appcontext.Context(), os.Args[1:], os.Stderr, mediumstep.Commands()))
}
