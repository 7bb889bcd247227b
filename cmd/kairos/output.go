package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/tonistiigi/go-csvvalue"

	"github.com/kairos-buildkit/kairos/builder"
)

// output is one --output.
type output struct {
	typ, dest string
	attrs     map[string]string
}

// Attributes by type of output, besides type and dest.
var (
	imageAttrs = []string{
		"name", "compression", "compression-level", "force-compression", "oci-mediatypes", "oci-artifact",
		"rewrite-timestamp", "source-date-epoch", "attestation-inline", "annotation", "prefer-nondist-layers",
	}
	outputAttrs = map[string][]string{
		client.ExporterImage: append([]string{
			"push", "push-by-digest", "registry.insecure", "store", "unpack", "name-canonical", "dangling-name-prefix",
			"danging-name-empty-only", "release",
		}, imageAttrs...),
		builder.TypeRelease:   append([]string{"push-by-digest", "registry.insecure", "store"}, imageAttrs...),
		client.ExporterOCI:    append([]string{"tar"}, imageAttrs...),
		client.ExporterDocker: append([]string{"tar"}, imageAttrs...),
		client.ExporterLocal:  {"platform-split", "attestation-prefix", "source-date-epoch", "mode"},
		client.ExporterTar:    {"platform-split", "attestation-prefix", "source-date-epoch"},
	}
)

// isImage says whether an output is an image as others know them.
func (o output) isImage() bool {
	return o.inRegistry() || o.typ == client.ExporterOCI || o.typ == client.ExporterDocker
}

// inRegistry says whether an output is an image that is, or may be, pushed: it has no file.
func (o output) inRegistry() bool {
	return o.typ == client.ExporterImage || o.typ == builder.TypeRelease
}

// isMedium says whether a type of output is a bootable medium.
func isMedium(typ string) bool { return slices.Contains(builder.Formats(), typ) }

// typeAttrs returns the attributes of a type of output, and whether there is such a type.
func typeAttrs(typ string) ([]string, bool) {
	if isMedium(typ) {
		return builder.MediumAttrs(typ), true
	}
	attrs, ok := outputAttrs[typ]
	return attrs, ok
}

func outputTypes() []string {
	types := append(slices.Collect(maps.Keys(outputAttrs)), builder.Formats()...)
	slices.Sort(types)
	return types
}

// parseOutput reads one --output.
func parseOutput(s string) (output, error) {
	o := output{attrs: map[string]string{}}
	if s == "-" {
		return output{typ: client.ExporterTar, dest: "-", attrs: o.attrs}, nil
	}
	if !strings.Contains(s, "=") {
		return output{typ: client.ExporterLocal, dest: s, attrs: o.attrs}, nil
	}
	fields, err := csvvalue.Fields(s, nil)
	if err != nil {
		return o, usagef("--output %s: %w", s, err)
	}
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		switch key = strings.ToLower(strings.TrimSpace(key)); {
		case !ok:
			return o, usagef("--output %s: %q: want key=value", s, field)
		case key == "type":
			o.typ = value
		case key == "dest":
			o.dest = value
		default:
			o.attrs[key] = value
		}
	}
	if o.typ == "registry" {
		o.typ = client.ExporterImage
		o.attrs["push"] = "true"
	}
	known, ok := typeAttrs(o.typ)
	if !ok {
		return o, usagef("--output %s: type=%s is not known: use %s", s, o.typ, strings.Join(outputTypes(), ", "))
	}
	for key := range o.attrs {
		// Annotations name a manifest's part and a key: annotation-index.org.example.key
		base, _, _ := strings.Cut(key, ".")
		if slices.Contains(known, key) ||
			strings.HasPrefix(base, "annotation") && slices.Contains(known, "annotation") {
			continue
		}
		names := append([]string{"dest"}, known...)
		slices.Sort(names)
		return o, usagef("--output %s: attribute %q is not known: use %s", s, key, strings.Join(names, ", "))
	}
	return o, o.check(s)
}

// check refuses what cannot work before the build begins.
func (o *output) check(s string) error {
	if isMedium(o.typ) {
		return o.checkMedium(s)
	}
	switch o.typ {
	case client.ExporterLocal:
		if o.dest == "" || o.dest == "-" {
			return usagef("--output %s: where to? Add dest=FOLDER", s)
		}
	case client.ExporterOCI, client.ExporterTar:
		if o.dest == "" {
			o.dest = "-"
		}
	case client.ExporterImage, builder.TypeRelease:
		if o.dest != "" {
			return usagef("--output %s: an image has no dest: for a file use type=oci or type=docker", s)
		}
	}
	return nil
}

func (o *output) checkMedium(s string) error {
	if o.dest == "" {
		return usagef("--output %s: where to? Add dest=FILE", s)
	}
	if file := o.attrs["cloud-config"]; file != "" {
		text, err := configForMedium(file)
		if err != nil {
			return usagef("--output %s: %w", s, err)
		}
		o.attrs["cloud-config"] = text
	}
	if _, err := builder.ParseMedium(o.typ, o.attrs); err != nil {
		return usagef("--output %s: %w", s, err)
	}
	return nil
}

// outputs returns what the flags ask for.
func (o *buildOptions) parseOutputs() ([]output, error) {
	var outs []output
	for _, s := range o.outputs {
		out, err := parseOutput(s)
		if err != nil {
			return nil, err
		}
		outs = append(outs, out)
	}
	if o.push && !slices.ContainsFunc(outs, output.inRegistry) {
		outs = append(outs, output{typ: client.ExporterImage, attrs: map[string]string{}})
	}
	if o.load && !slices.ContainsFunc(outs, func(out output) bool { return out.typ == client.ExporterDocker }) {
		outs = append(outs, output{typ: client.ExporterDocker, attrs: map[string]string{}})
	}
	for i := range outs {
		if err := o.complete(&outs[i]); err != nil {
			return nil, err
		}
	}
	if o.release && !slices.ContainsFunc(outs, output.inRegistry) {
		return nil, usagef("--release: a release is published beside an image in a registry: add --push")
	}
	return outs, nil
}

// complete adds to an output what other flags and the environment say.
func (o *buildOptions) complete(out *output) error {
	isImage := out.isImage()
	if isImage {
		attrs, err := annotations(o.annotations)
		if err != nil {
			return err
		}
		maps.Copy(out.attrs, attrs)
	}
	if (isImage || isMedium(out.typ)) && out.attrs["name"] == "" && len(o.tags) > 0 {
		out.attrs["name"] = strings.Join(o.tags, ",")
	}
	if out.typ == client.ExporterImage {
		if o.push {
			out.attrs["push"] = "true"
		}
		if o.release {
			out.attrs["release"] = "true"
		}
		if isTrue(out.attrs, "release") && !isTrue(out.attrs, "push") {
			return usagef("a release is published beside an image in a registry: add --push")
		}
	}
	if (out.typ == builder.TypeRelease || isTrue(out.attrs, "push")) && out.attrs["name"] == "" {
		return usagef("push where? Name the image with --tag")
	}
	return nil
}

// isTrue says whether an attribute is on, as BuildKit reads it: without a value it is.
func isTrue(attrs map[string]string, key string) bool {
	v, ok := attrs[key]
	on, err := strconv.ParseBool(v)
	return ok && (v == "" || err == nil && on)
}

// destination says whether the output can be written, with a word on what is in the way.
func checkDestination(dest string) error {
	if info, err := os.Stat(dest); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a folder: name a file in it", dest)
	}
	dir := filepath.Dir(dest)
	if info, err := os.Stat(dir); err != nil {
		return fmt.Errorf("folder %s: %w", dir, err)
	} else if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", dir)
	}
	return nil
}
