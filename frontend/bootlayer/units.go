package bootlayer

import (
	"bufio"
	"bytes"
	"io/fs"
	"path"
	"strings"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/units"
)

// unitDir is where an image's packages have their units.
var unitDir = path.Dir(layout.ImageBlessUnit)

// unitFiles returns the node agent's units and the links that enable them, below /usr: in the
// image's /etc are only the links that mask a unit. An image with OpenRC or sysvinit gets an
// init script.
func unitFiles(root fs.FS) ([]File, error) {
	files, err := scriptFiles(root)
	if err != nil {
		return nil, err
	}
	if _, err := fs.Stat(root, unitDir); err != nil {
		return files, nil
	}
	files = append(files, File{Path: layout.ImageShutdownHook, Mode: 0o755, Data: units.ShutdownHook})
	for _, unit := range units.Masked() {
		files = append(
			files,
			File{Path: path.Join("etc/systemd/system", unit), Mode: fs.ModeSymlink | 0o777, Link: "/dev/null"},
		)
	}
	err = fs.WalkDir(units.FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(units.FS, name)
		if err != nil {
			return err
		}
		unit := path.Base(name)
		files = append(files, File{Path: path.Join(unitDir, unit), Mode: 0o644, Data: data})
		for _, dir := range installDirs(data) {
			files = append(
				files,
				File{Path: path.Join(unitDir, dir, unit), Mode: fs.ModeSymlink | 0o777, Link: "../" + unit},
			)
		}
		return nil
	})
	return files, err
}

// scriptFiles returns the script that starts the node agent in an image whose init runs scripts.
func scriptFiles(root fs.FS) ([]File, error) {
	var script units.Script
	switch {
	case hasOpenRC(root):
		script = units.OpenRC()
	case !exists(root, layout.ImageInittab):
		return nil, nil
	case initProgram(root) == "busybox":
		script = units.BusyBox()
	default:
		script = units.SysV()
	}
	files := []File{{Path: script.Path, Mode: 0o755, Data: script.Data}}
	for _, link := range script.Links {
		files = append(files, File{Path: link, Mode: fs.ModeSymlink | 0o777, Link: relative(link, script.Path)})
	}
	if script.Inittab == "" {
		return files, nil
	}
	table, err := bounded.ReadFile(root, layout.ImageInittab, maxText)
	if err != nil {
		return nil, err
	}
	if !bytes.Contains(table, []byte(script.Inittab)) { // an image that is built on one of ours has it
		table = append(bytes.TrimRight(table, "\n"), "\n"+script.Inittab+"\n"...)
		files = append(files, File{Path: layout.ImageInittab, Mode: 0o644, Data: table})
	}
	return files, nil
}

// starter says what starts the node agent in an image that has the boot layer.
func starter(root fs.FS) layout.Starter {
	return layout.Starting{
		Init:     initProgram(root),
		Unit:     exists(root, unitDir),
		Runlevel: hasOpenRC(root),
		Line:     !hasOpenRC(root) && exists(root, layout.ImageInittab),
	}.Starter()
}

func hasOpenRC(root fs.FS) bool {
	return exists(root, "sbin/openrc") || exists(root, "usr/sbin/openrc")
}

// initProgram returns the name of the program that is the image's init, where its links lead.
func initProgram(root fs.FS) string {
	real, err := boot.FindInit(root)
	if err != nil {
		return ""
	}
	return path.Base(real)
}

// installDirs reads a unit's [Install] section, as `systemctl enable` does.
func installDirs(unit []byte) []string {
	var dirs []string
	section := ""
	for s := bufio.NewScanner(bytes.NewReader(unit)); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if strings.HasPrefix(line, "[") {
			section = line
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || section != "[Install]" {
			continue
		}
		suffix := map[string]string{"WantedBy": ".wants", "RequiredBy": ".requires"}[strings.TrimSpace(key)]
		if suffix == "" {
			continue
		}
		for _, target := range strings.Fields(value) {
			dirs = append(dirs, target+suffix)
		}
	}
	return dirs
}
