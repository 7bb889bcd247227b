//go:build !judge

package main

// With the tag judge, and judge.mod, there is a program.
func main() {}
