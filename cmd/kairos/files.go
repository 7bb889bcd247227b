package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/client"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// outputSet is where the outputs of a build go. A file is written under a temporary name
// beside its own one, and gets its name when the whole build has succeeded.
type outputSet struct {
	outputs []output
	files   []*pendingFile // by output, nil where there is none
	loads   []*engineLoad
}

// outputFile is what --metadata-file says of a file.
type outputFile struct {
	Type   string `json:"type"`
	Dest   string `json:"dest"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// openOutputs prepares all outputs, so that what cannot be written is known before the build.
func (o *buildOptions) openOutputs(s streams) (*outputSet, error) {
	outs, err := o.parseOutputs()
	if err != nil {
		return nil, err
	}
	set := &outputSet{outputs: outs, files: make([]*pendingFile, len(outs)), loads: make([]*engineLoad, len(outs))}
	for i, out := range outs {
		if err := set.open(i, out, s); err != nil {
			return nil, errors.Join(err, set.discard())
		}
	}
	return set, nil
}

func (set *outputSet) open(i int, out output, s streams) error {
	switch {
	case out.inRegistry():
		return nil
	case out.typ == client.ExporterDocker && out.dest == "":
		load, err := dialEngine()
		set.loads[i] = load
		return err
	case out.typ == client.ExporterLocal || out.attrs["tar"] == "false":
		if err := checkFolder(out.dest); err != nil {
			return usagef("--output dest=%s: %w", out.dest, err)
		}
		return nil
	case out.dest == "-":
		if f, ok := s.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return usagef("--output type=%s: standard output is a terminal: add dest=FILE", out.typ)
		}
		set.files[i] = &pendingFile{w: s.out, dest: "standard output"}
		return nil
	default:
		f, err := createPending(out.dest)
		if err != nil {
			return usagef("--output dest=%s: %w", out.dest, err)
		}
		f.private = out.attrs["cloud-config"] != ""
		set.files[i] = f
		return nil
	}
}

// entries are the exports as BuildKit's client takes them.
func (set *outputSet) entries() []client.ExportEntry {
	var entries []client.ExportEntry
	for i, out := range set.outputs {
		e := client.ExportEntry{Type: out.typ, Attrs: maps.Clone(out.attrs)}
		if isMedium(out.typ) {
			// The client receives files for the types that it knows. See package builder.
			e.Type, e.Attrs["format"] = client.ExporterTar, out.typ
		}
		switch f := set.files[i]; {
		case f != nil:
			e.Output = func(map[string]string) (io.WriteCloser, error) { return f, nil }
		case set.loads[i] != nil:
			e.Output = func(map[string]string) (io.WriteCloser, error) { return set.loads[i], nil }
		case !out.inRegistry():
			e.OutputDir = out.dest
		}
		entries = append(entries, e)
	}
	return entries
}

// commit gives all files their names. After a medium comes its checksum.
func (set *outputSet) commit(s streams) ([]outputFile, error) {
	var files []outputFile
	for i, out := range set.outputs {
		if load := set.loads[i]; load != nil {
			if err := load.wait(s.err); err != nil {
				return nil, err
			}
		}
		f := set.files[i]
		if f == nil {
			continue
		}
		checksum := isMedium(out.typ) && out.dest != "-"
		if err := f.commit(checksum); err != nil {
			return nil, fmt.Errorf("write %s: %w", out.dest, err)
		}
		files = append(files, outputFile{out.typ, out.dest, "sha256:" + f.sum(), f.size})
	}
	return files, nil
}

// writeError is what kept a file from being written.
func (set *outputSet) writeError() error {
	for _, f := range set.files {
		if f != nil && f.err != nil {
			return fmt.Errorf("write %s: %w: nothing of it is left there", f.dest, f.err)
		}
	}
	return nil
}

// discard removes what was not committed.
func (set *outputSet) discard() error {
	var errs []error
	for _, f := range set.files {
		if f != nil {
			errs = append(errs, f.discard())
		}
	}
	return errors.Join(errs...)
}

// pendingFile is a file under a temporary name, or a stream.
type pendingFile struct {
	w      io.Writer
	file   *os.File // nil: a stream
	stream *os.File // to close, where the stream is a device or a pipe
	dest   string
	size   int64
	hash   hash.Hash
	err    error // of the first write that failed
	// private files are for their owner alone: a cloud-config is in them, with its passwords and tokens.
	private bool
}

func createPending(dest string) (*pendingFile, error) {
	if err := checkDestination(dest); err != nil {
		return nil, err
	}
	// A device or a pipe keeps its place: it is written to, not replaced.
	if info, err := os.Stat(dest); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(dest, os.O_WRONLY, 0)
		return &pendingFile{w: f, stream: f, dest: dest}, err
	}
	// A link keeps its place as well: what it leads to is replaced.
	if real, err := filepath.EvalSymlinks(dest); err == nil {
		dest = real
	}
	f, err := os.CreateTemp(filepath.Dir(dest), "."+filepath.Base(dest)+".*")
	if err != nil {
		return nil, err
	}
	return &pendingFile{w: f, file: f, dest: dest}, nil
}

func (p *pendingFile) Write(b []byte) (int, error) {
	if p.hash == nil {
		p.hash = sha256.New()
	}
	n, err := p.write(b)
	p.size += int64(n)
	p.hash.Write(b[:n])
	if err != nil && p.err == nil {
		// Without the temporary name, which means nothing to a person.
		p.err = err
		if pathErr := (*os.PathError)(nil); errors.As(err, &pathErr) {
			p.err = pathErr.Err
		}
	}
	return n, err
}

// sparseUnit is what a hole is made of, in bytes: file systems' usual block.
const sparseUnit = 4096

// write leaves zeros out of a file where a whole block of it is zeros: a disk is mostly that.
func (p *pendingFile) write(b []byte) (n int, err error) {
	if p.file == nil {
		return p.w.Write(b)
	}
	for n < len(b) {
		unit := int(sparseUnit - (p.size+int64(n))%sparseUnit)
		hole := n
		for hole+unit <= len(b) && isZero(b[hole:hole+unit]) {
			hole, unit = hole+unit, sparseUnit
		}
		if hole > n {
			if _, err := p.file.Seek(int64(hole-n), io.SeekCurrent); err != nil {
				return n, err
			}
			n = hole
			continue
		}
		data := n
		for data+unit <= len(b) && !isZero(b[data:data+unit]) {
			data, unit = data+unit, sparseUnit
		}
		if data == n {
			data = len(b) // less than a block is left
		}
		m, err := p.file.Write(b[n:data])
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

func isZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Close is called by the session at the end of the stream, finished or broken: it means nothing.
func (p *pendingFile) Close() error { return nil }

func (p *pendingFile) sum() string {
	if p.hash == nil {
		p.hash = sha256.New()
	}
	return hex.EncodeToString(p.hash.Sum(nil))
}

func (p *pendingFile) commit(checksum bool) error {
	if p.file == nil {
		return p.discard()
	}
	// The last block may be a hole.
	if err := p.file.Truncate(p.size); err != nil {
		return err
	}
	mode := 0o666 &^ umask()
	if p.private {
		mode &= 0o600
	}
	if err := errors.Join(p.file.Chmod(mode), p.file.Sync()); err != nil {
		return err
	}
	// A checksum of another file must not stand beside this one, whatever happens in between.
	sumFile := p.dest + ".sha256"
	if checksum {
		if err := os.Remove(sumFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(p.file.Name(), p.dest); err != nil {
		return err
	}
	err := p.file.Close()
	p.file = nil
	if err != nil || !checksum {
		return err
	}
	return writeFileAtomic(sumFile, []byte(p.sum()+"  "+filepath.Base(p.dest)+"\n"))
}

func (p *pendingFile) discard() error {
	if p.stream != nil {
		err := p.stream.Close()
		p.stream = nil
		return err
	}
	if p.file == nil {
		return nil
	}
	err := errors.Join(p.file.Close(), os.Remove(p.file.Name()))
	p.file = nil
	return err
}

// umask is the process's.
func umask() os.FileMode {
	m := unix.Umask(0o022)
	unix.Umask(m)
	return os.FileMode(m)
}

// checkFolder says whether a folder can be made or written.
func checkFolder(dir string) error {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if errors.Is(err, os.ErrNotExist) && dir != filepath.Dir(dir) {
			continue
		}
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return fmt.Errorf("%s is not a folder", dir)
		}
		if err := unix.Access(dir, unix.W_OK); err != nil {
			return fmt.Errorf("%s cannot be written: %w", dir, err)
		}
		return nil
	}
}

// decodeResponse turns an exporter's answer into what it says: some are JSON in base64.
func decodeResponse(v string) any {
	if b, err := base64.StdEncoding.DecodeString(v); err == nil && strings.HasPrefix(string(b), "{") {
		var m map[string]any
		if json.Unmarshal(b, &m) == nil {
			return m
		}
	}
	return v
}
