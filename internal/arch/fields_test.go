package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// onNodes begin the names of the files whose code nodes run.
var onNodes = []string{
	"node/", "loader/", "disk/", "store/", "image/", "boot/", "exporter/", "internal/initramfs/", "internal/blockdev/",
	"internal/efivars/", "internal/mount/", "internal/modprobe/", "internal/durable/", "cmd/kairos-init/",
	"cmd/kairos-apply/",
}

// mayBeNil are the fields of a function's type that may be nil, each with what that means. It is never that a test
// gives a function, and a node runs another one: tests run the very code that nodes run.
var mayBeNil = map[string]string{
	"Progress": "nobody watches", "progress": "nobody watches", "Bytes": "nobody watches",
	"Warn": "nobody reads", "Waiting": "nobody watches", "Before": "nobody counts the steps",
	"Confirm": "nobody is asked", "Known": "no other blobs are known", "Signatures": "nobody signs",
	"BootLayers": "there is nothing to make boot layers with", "Hosts": "hosts.toml alone says where registries are",
	"Open":  "a file that has no bytes of its own: a folder, zeros, a layer whose bytes are elsewhere",
	"close": "nothing is open", "check": "a file system without checksums", "alike": "nothing was found yet",
	"Cut": "nobody judges", "BootSignatures": "none is apart from the image",
}

// A function field whose nil has another piece of code do the work is a seam where tests leave what nodes run.
func TestFunctionFields(t *testing.T) {
	root := filepath.Join("..", "..")
	var files []*ast.File
	set := token.NewFileSet()
	err := goFiles(root, func(rel string) error {
		for _, dir := range onNodes {
			if strings.HasPrefix(rel, dir) {
				f, err := parser.ParseFile(set, filepath.Join(root, rel), nil, 0)
				files = append(files, f)
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	fields := functionFields(files)
	if len(fields) < 20 {
		t.Fatalf("only %d fields of functions found", len(fields))
	}
	compared := map[string]bool{}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			b, ok := n.(*ast.BinaryExpr)
			if !ok {
				return true
			}
			x, isField := b.X.(*ast.SelectorExpr)
			y, isName := b.Y.(*ast.Ident)
			if isField && isName && y.Name == "nil" && fields[x.Sel.Name] {
				compared[x.Sel.Name] = true
				if mayBeNil[x.Sel.Name] == "" {
					t.Errorf("%s: %s is a function that may be nil: give the field an interface that is always set, "+
						"or its reason in mayBeNil", set.Position(b.Pos()), x.Sel.Name)
				}
			}
			return true
		})
	}
	for name := range mayBeNil {
		if !compared[name] {
			t.Errorf("no code compares %s with nil: take it out of mayBeNil", name)
		}
	}
}

// functionFields are the names of all fields whose type is a function's, or an interface of another module that one
// function stands for.
func functionFields(files []*ast.File) map[string]bool {
	types := map[string]bool{"RegistryHosts": true, "RoundTripper": true}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.TypeSpec); ok {
				if _, ok := s.Type.(*ast.FuncType); ok {
					types[s.Name.Name] = true
				}
			}
			return true
		})
	}
	fields := map[string]bool{}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			s, ok := n.(*ast.StructType)
			if !ok {
				return true
			}
			for _, field := range s.Fields.List {
				is := false
				switch x := field.Type.(type) {
				case *ast.FuncType:
					is = true
				case *ast.Ident:
					is = types[x.Name]
				case *ast.SelectorExpr:
					is = types[x.Sel.Name]
				}
				for _, name := range field.Names {
					fields[name.Name] = fields[name.Name] || is
				}
			}
			return true
		})
	}
	return fields
}
