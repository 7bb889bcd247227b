// Package config reads cloud-configs: a value with the position of everything in it, from the file to
// whoever reads it. It does no I/O.
//
//	bytes ──Parse──▶ File ─┐
//	bytes ──Parse──▶ File ─┴─Merge──▶ Config ──▶ Install, Users, WriteFiles, Steps, …
//	                                     └─────▶ Report: applied, ignored, errors
//
// One schema says which keys there are, of which type, what each does, and where it differs from the
// Kairos project: [Schema]. A file is held against it before files are merged. What is wrong in a file is
// an error in the report and is not part of the config, so that at boot each key stands for itself; who is
// strict, as whoever writes a medium is, asks [Report.Err].
//
// # Merging
//
// As the Kairos project merges configs, which are in the order of the places that they come from and, within a
// folder, of their names:
//
//   - maps are merged key by key, and of two scalars the later one counts;
//   - lists of maps are joined, and so are lists of commands: stages, users, write_files and runcmd of all files
//     count;
//   - a list of other values gets the values of the later one that it does not have yet;
//   - null takes away what earlier files say.
//
// Users of the same name become one: what the later entry says counts, and keys and groups add up.
//
// # Bounds
//
// A file has at most [MaxSize] bytes and, with its aliases written out, 200,000 values of which none is more than 64
// deep.
package config

//go:generate go run ./internal/document ../docs/configuration.md
