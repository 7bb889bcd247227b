// Package filemode translates a mode's permissions, setuid, setgid and sticky bit between package io/fs, which has
// them in places of its own, and Unix, where they are twelve bits: tar headers, inodes, chmod(2).
package filemode

import "io/fs"

// special are the bits above the permissions, inode(7).
var special = []struct {
	mode fs.FileMode
	unix uint32
}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}}

// ToUnix returns the twelve bits of a mode; its type is left out.
func ToUnix(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	for _, s := range special {
		if m&s.mode != 0 {
			bits |= s.unix
		}
	}
	return bits
}

// FromUnix returns the mode of twelve bits, such as chmod(1)'s octal digits: 4755 is setuid. Others are left out.
func FromUnix(bits uint32) fs.FileMode {
	m := fs.FileMode(bits & 0o777)
	for _, s := range special {
		if bits&s.unix != 0 {
			m |= s.mode
		}
	}
	return m
}
