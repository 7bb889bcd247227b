package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// img is an image: the files of the layers that the frontend has appended, and its config.
type img struct {
	layers []string // their diffIDs, of all
	files  map[string]file
	config map[string]any
}

// userLayers are those of the image that both sides begin with: scripts/same-bytes builds it as one layer's image or
// more, and says how many in its label.
const userLayers = "same-bytes.layers"

func open(dir string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	image, err := first(index)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return image, nil
}

func countLayers(dir string) (int, error) {
	image, err := open(dir)
	if err != nil {
		return 0, err
	}
	layers, err := image.Layers()
	return len(layers), err
}

func readImage(dir string) (img, error) {
	i := img{files: map[string]file{}}
	image, err := open(dir)
	if err != nil {
		return i, err
	}
	raw, err := image.RawConfigFile()
	if err != nil {
		return i, err
	}
	if err := json.Unmarshal(raw, &i.config); err != nil {
		return i, err
	}
	c, err := image.ConfigFile()
	if err != nil {
		return i, err
	}
	var base int
	if _, err := fmt.Sscan(c.Config.Labels[userLayers], &base); err != nil {
		return i, fmt.Errorf("%s: label %s: %w", dir, userLayers, err)
	}
	layers, err := image.Layers()
	if err != nil {
		return i, err
	}
	for n, l := range layers {
		id, err := l.DiffID()
		if err != nil {
			return i, err
		}
		i.layers = append(i.layers, id.String())
		if n < base {
			continue
		}
		if err := i.add(l); err != nil {
			return i, err
		}
	}
	return i, nil
}

// first returns the image of an OCI layout, in one index or two.
func first(index v1.ImageIndex) (v1.Image, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, d := range m.Manifests {
		switch {
		case d.MediaType.IsIndex():
			below, err := index.ImageIndex(d.Digest)
			if err != nil {
				return nil, err
			}
			return first(below)
		case d.MediaType.IsImage():
			return index.Image(d.Digest)
		}
	}
	return nil, errors.New("no image in it")
}

func (i img) add(l v1.Layer) error {
	r, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer r.Close()
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		f := file{size: h.Size}
		f.what = fmt.Sprintf("%c %o %d:%d %s %s %v", h.Typeflag, h.Mode, h.Uid, h.Gid,
			h.ModTime.UTC().Format("2006-01-02T15:04:05"), h.Linkname, h.PAXRecords)
		sum := sha256.New()
		if _, err := io.Copy(sum, t); err != nil {
			return err
		}
		sum.Sum(f.sum[:0])
		i.files["/"+strings.TrimSuffix(h.Name, "/")] = f
	}
}

func (i img) layerDiffers(o img) []string {
	differs := filesDiffer(i.files, o.files)
	if len(differs) == 0 && !slices.Equal(i.layers, o.layers) {
		differs = []string{fmt.Sprintf("the same files in other layers: %s -> %s", i.layers, o.layers)}
	}
	return differs
}

// configDiffers lists the keys of the config that differ, two levels deep. What follows from the layers is left out.
func (i img) configDiffers(o img) (differs []string) {
	var walk func(at string, x, y any)
	walk = func(at string, x, y any) {
		if at == ".rootfs" || at == ".history" && !slices.Equal(i.layers, o.layers) {
			return
		}
		a, okA := x.(map[string]any)
		b, okB := y.(map[string]any)
		if !okA || !okB {
			if !reflect.DeepEqual(x, y) {
				p, _ := json.Marshal(x)
				q, _ := json.Marshal(y)
				differs = append(differs, fmt.Sprintf("%s: %s -> %s", at, p, q))
			}
			return
		}
		keys := map[string]bool{}
		for k := range a {
			keys[k] = true
		}
		for k := range b {
			keys[k] = true
		}
		for k := range keys {
			walk(at+"."+k, a[k], b[k])
		}
	}
	walk("", any(i.config), any(o.config))
	slices.Sort(differs)
	return differs
}
