package main

import (
	"io"
	"log/slog"
)

// logTo writes JSON lines, as clusters collect them.
func logTo(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) }
