package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
)

// checkID refuses --iidfile and --quiet where there is no ID, or another output is where it goes.
func (o *buildOptions) checkID(outs []output) error {
	isImage := func(out output) bool { return out.typ != client.ExporterLocal && out.typ != client.ExporterTar }
	if o.iidFile != "" && !slices.ContainsFunc(outs, isImage) {
		return usagef("--iidfile: no output is an image: add --output type=image or --tag REF --push")
	}
	if o.iidFile != "" {
		if err := checkDestination(o.iidFile); err != nil {
			return usagef("--iidfile %s: %w", o.iidFile, err)
		}
	}
	if len(o.annotations) > 0 && !slices.ContainsFunc(outs, output.isImage) {
		return usagef("--annotation: no output is an image: add --output type=image or --tag REF --push")
	}
	if o.quiet && slices.ContainsFunc(outs, func(out output) bool { return out.dest == "-" }) {
		return usagef("--quiet prints the image's ID on standard output, where an output goes")
	}
	return nil
}

// writeID writes the image's ID to --iidfile and, with --quiet, to standard output. It is the config's digest or, of
// an image with several manifests, the index's.
func (o *buildOptions) writeID(resp *client.SolveResponse, s streams) error {
	id := resp.ExporterResponse[exptypes.ExporterImageConfigDigestKey]
	if id == "" {
		id = resp.ExporterResponse[exptypes.ExporterImageDigestKey]
	}
	var err error
	if o.iidFile != "" {
		if id == "" {
			return errors.New("--iidfile: the builder has told no ID of the image")
		}
		err = writeFileAtomic(o.iidFile, []byte(id))
	}
	if o.quiet && id != "" {
		fmt.Fprintln(s.out, id)
	}
	return err
}

// writeMetadata writes --metadata-file.
func (o *buildOptions) writeMetadata(resp *client.SolveResponse, files []outputFile) error {
	if o.metadataFile == "" {
		return nil
	}
	m := map[string]any{}
	for k, v := range resp.ExporterResponse {
		m[k] = decodeResponse(v)
	}
	if len(files) > 0 {
		m["kairos.files"] = files
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return writeFileAtomic(o.metadataFile, append(b, '\n'))
}

// writeFileAtomic writes a small file so that its name never has a part of it. A device or a
// pipe is written to as it is.
func writeFileAtomic(name string, data []byte) error {
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return os.WriteFile(name, data, 0)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
