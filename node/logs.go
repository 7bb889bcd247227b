package node

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/provision/tree"
)

// Bounds of an archive of logs: bytes of each file, of which the last ones are kept, and files of each pattern.
const (
	maxLog      = 16 << 20
	maxLogFiles = 500
)

// logPatterns are files that every archive has, beside those that the config names.
var logPatterns = []string{
	"/" + layout.OSReleaseVendor, "/" + layout.ImageRelease, "/proc/cmdline", "/proc/mounts", "/proc/partitions",
	"/" + layout.RunBoot, "/" + layout.RunProblems, "/" + layout.RunUnhealthy,
	"/var/log/messages", "/var/log/syslog", "/var/log/cloud-init*.log", "/var/log/k3s*.log", "/var/log/k0s*.log",
}

// Logs writes one archive (tar, gzip) of what helps to find out what happened on a node: its status with the reports
// of releases that failed, what was booted, the journal of this boot and the one before it, the kernel's log, the
// config without secrets, and what the config's block logs names. What cannot be read is listed in errors.txt. A link
// that a user made leads nowhere.
func (m *Machine) Logs(ctx context.Context, w io.Writer) error {
	z := gzip.NewWriter(w)
	a := &logArchive{tar: tar.NewWriter(z), now: time.Now()}
	conf := m.nodeConfig()

	status, err := m.Status()
	a.json("status.json", status, err)
	text, err := conf.WithoutSecrets().YAML()
	a.add("config.yaml", text, err)
	a.add("config-report.txt", []byte(conf.Report().Text()), nil)
	for name, argv := range map[string][]string{
		"journal/boot.txt":     {"journalctl", "--no-pager", "-o", "short-iso-precise", "-b", "-n", "200000"},
		"journal/previous.txt": {"journalctl", "--no-pager", "-o", "short-iso-precise", "-b", "-1", "-n", "50000"},
		"dmesg.txt":            {"dmesg"},
		"blkid.txt":            {"blkid"},
	} {
		a.command(ctx, name, argv...)
	}
	logs := conf.Logs()
	for _, unit := range logs.Journal {
		name := "journal/" + strings.ReplaceAll(unit, "/", "-") + ".txt"
		a.command(ctx, name, "journalctl", "--no-pager", "-o", "short-iso-precise", "-n", "50000", "-u", unit)
	}
	a.files(m.Root, logPatterns, false)
	a.files(m.Root, logs.Files, true)
	if m.State != nil {
		reports, _ := filepath.Glob(filepath.Join(m.State.Dir(), layout.FailureDir, "*")) // the pattern is right
		for _, name := range reports {
			b, err := os.ReadFile(name)
			a.add("reports/"+filepath.Base(name), b, err)
		}
	}
	if m.ESP != nil {
		if entries, err := os.ReadDir(filepath.Join(m.ESP.Dir, layout.UKIDir)); err == nil {
			var names strings.Builder
			for _, e := range entries {
				names.WriteString(e.Name() + "\n")
			}
			a.add("boot-entries.txt", []byte(names.String()), nil)
		}
		grubenv, err := m.ESP.ReadFile(layout.GrubEnv)
		if !errors.Is(err, fs.ErrNotExist) {
			a.add("grubenv.txt", grubenv, err)
		}
	}
	if len(a.failed) > 0 {
		a.add("errors.txt", []byte(strings.Join(a.failed, "\n")+"\n"), nil)
	}
	if err := errors.Join(a.err, ctx.Err()); err != nil {
		return fmt.Errorf("write the archive of logs: %w", err)
	}
	if err := errors.Join(a.tar.Close(), z.Close()); err != nil {
		return fmt.Errorf("write the archive of logs: %w", err)
	}
	return nil
}

// logArchive collects what there is, and notes what there is not. The first error of writing sticks.
type logArchive struct {
	tar    *tar.Writer
	now    time.Time
	failed []string
	err    error
}

func (a *logArchive) add(name string, b []byte, err error) {
	if err != nil {
		a.failed = append(a.failed, name+": "+err.Error())
	}
	if len(b) == 0 || a.err != nil {
		return
	}
	if len(b) > maxLog {
		b = b[len(b)-maxLog:]
	}
	h := &tar.Header{Name: "kairos-logs/" + name, Mode: 0o600, Size: int64(len(b)), ModTime: a.now}
	if a.err = a.tar.WriteHeader(h); a.err == nil {
		_, a.err = a.tar.Write(b)
	}
}

func (a *logArchive) json(name string, v any, err error) {
	b, jsonErr := json.MarshalIndent(v, "", "  ")
	a.add(name, b, errors.Join(err, jsonErr))
}

// command adds what a program prints. One that the image does not have is not missed.
func (a *logArchive) command(ctx context.Context, name string, argv ...string) {
	if _, err := exec.LookPath(argv[0]); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out := &lastBytes{max: maxLog}
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Stdout, c.Stderr = out, out
	c.WaitDelay = time.Second
	err := c.Run()
	if name == "journal/previous.txt" {
		err = nil // a node that keeps no journal has none
	}
	a.add(name, out.b, err)
}

// files adds the files of patterns below files/. Of those that were asked for by name, one that is not there is noted.
func (a *logArchive) files(root string, patterns []string, asked bool) {
	r, err := tree.Open(root)
	if err != nil {
		a.failed = append(a.failed, err.Error())
		return
	}
	defer r.Close()
	for _, pattern := range patterns {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err == nil && len(names) == 0 && asked {
			err = errors.New("there is no such file")
		}
		if err == nil && len(names) > maxLogFiles {
			err = fmt.Errorf("%d files: these are the first %d", len(names), maxLogFiles)
			names = names[:maxLogFiles]
		}
		if err != nil {
			a.failed = append(a.failed, pattern+": "+err.Error())
		}
		for _, name := range names {
			rel, err := filepath.Rel(root, name)
			if err != nil {
				continue
			}
			b, err := lastOf(r, rel)
			a.add("files/"+rel, b, err)
		}
	}
}

// lastOf reads the end of a regular file.
func lastOf(r *tree.Root, name string) ([]byte, error) {
	d, err := r.Dir(path.Dir("/" + name))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	f, err := d.Open(path.Base(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, err
	}
	if info.Size() > maxLog {
		if _, err := f.Seek(-maxLog, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, maxLog)) // one that grows has no end
}

// lastBytes keeps the last bytes that are written to it.
type lastBytes struct {
	b   []byte
	max int
}

func (l *lastBytes) Write(p []byte) (int, error) {
	if len(l.b)+len(p) > 2*l.max {
		l.b = bytes.Clone(l.b[max(0, len(l.b)-l.max):])
	}
	l.b = append(l.b, p...)
	return len(p), nil
}
