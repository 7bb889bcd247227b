package filetree

import (
	"os"
	"testing"
)

func TestTreeRefusesBadNames(t *testing.T) {
	for _, files := range [][]File{
		{Bytes("/abs", nil)}, {Bytes("a/../b", nil)}, {Bytes("", nil)}, {Bytes("a//b", nil)}, {Bytes(".", nil)},
		{Bytes("a", nil), Bytes("a", nil)},
		{Bytes("a", nil), Bytes("a/b", nil)},
		{Bytes("a/b", nil), Bytes("a", nil)},
		{{Path: "link", Mode: os.ModeSymlink}},
		{{Path: "unopened", Size: 1}},
	} {
		if _, err := New(files); err == nil {
			t.Errorf("accepted %v", files)
		}
	}
}
