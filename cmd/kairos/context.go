package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/ociindex"
	"github.com/tonistiigi/fsutil"
)

// setContexts names the Dockerfile and the folders that the build reads. The function that it
// returns removes the copy of a Dockerfile from standard input.
func (o *buildOptions) setContexts(solve *client.SolveOpt, contextDir string, s streams) (cleanup func(), err error) {
	cleanup = func() {}
	solve.LocalMounts = map[string]fsutil.FS{}
	solve.OCIStores = map[string]content.Store{}

	remote := isRemote(contextDir)
	if remote {
		solve.FrontendAttrs["context"] = contextDir
	} else if err := addLocal(solve, "context", contextDir); err != nil {
		return cleanup, usagef("build context: %w", err)
	}

	file := o.file
	switch {
	case file == "-":
		dir, err := os.MkdirTemp("", "kairos-dockerfile-")
		if err != nil {
			return cleanup, err
		}
		cleanup = func() { _ = os.RemoveAll(dir) }
		b, err := io.ReadAll(s.in)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "Dockerfile"), b, 0o600)
		}
		if err != nil {
			cleanup()
			return func() {}, fmt.Errorf("read the Dockerfile from standard input: %w", err)
		}
		file = filepath.Join(dir, "Dockerfile")
	case remote:
		if file != "" {
			solve.FrontendAttrs["filename"] = file
		}
		return cleanup, o.setNamedContexts(solve)
	case file == "":
		file = filepath.Join(contextDir, "Dockerfile")
	}
	if _, err := os.Stat(file); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return cleanup, usagef("no Dockerfile at %s: name it with --file", file)
		}
		return cleanup, usageError{err}
	}
	if err := addLocal(solve, "dockerfile", filepath.Dir(file)); err != nil {
		return cleanup, usageError{err}
	}
	solve.FrontendAttrs["filename"] = filepath.Base(file)
	return cleanup, o.setNamedContexts(solve)
}

func (o *buildOptions) setNamedContexts(solve *client.SolveOpt) error {
	for _, c := range o.contexts {
		name, value, ok := strings.Cut(c, "=")
		if !ok || name == "" || value == "" {
			return usagef(
				"--build-context %s: want NAME=PATH, NAME=docker-image://REF or NAME=oci-layout://DIR[:TAG]",
				c,
			)
		}
		name, err := contextName(name)
		if err != nil {
			return usagef("--build-context %s: %w", c, err)
		}
		key := "context:" + name
		if dir, ok := strings.CutPrefix(value, ociLayout); ok {
			ref, store, err := openLayout(dir)
			if err != nil {
				return usagef("--build-context %s: %w", name, err)
			}
			id := fmt.Sprintf("layout%d", len(solve.OCIStores))
			solve.OCIStores[id] = store
			solve.FrontendAttrs[key] = ociLayout + id + ref
			continue
		}
		if isRemote(value) || strings.HasPrefix(value, "docker-image://") || strings.HasPrefix(value, "target:") {
			solve.FrontendAttrs[key] = value
			continue
		}
		if err := addLocal(solve, name, value); err != nil {
			return usagef("--build-context %s: %w", name, err)
		}
		solve.FrontendAttrs[key] = "local:" + name
	}
	return nil
}

const ociLayout = "oci-layout://"

// openLayout opens an OCI layout, DIR[:TAG][@DIGEST], and returns the reference in it.
func openLayout(s string) (ref string, _ content.Store, _ error) {
	dir, digest, _ := strings.Cut(s, "@")
	tag := ""
	if i := strings.LastIndexByte(dir, ':'); i > strings.LastIndexByte(dir, '/') {
		dir, tag = dir[:i], dir[i+1:]
	}
	if _, err := os.Stat(filepath.Join(dir, "index.json")); err != nil {
		return "", nil, fmt.Errorf("%s is not an OCI layout: it has no index.json", dir)
	}
	if digest == "" {
		index := ociindex.NewStoreIndex(dir)
		desc, err := index.Get(orLatest(tag))
		if desc == nil && err == nil && tag == "" {
			desc, err = index.GetSingle()
		}
		if err != nil {
			return "", nil, fmt.Errorf("OCI layout %s: %w", dir, err)
		}
		if desc == nil {
			return "", nil, fmt.Errorf("OCI layout %s has no image tagged %q", dir, orLatest(tag))
		}
		digest = desc.Digest.String()
	}
	store, err := contentlocal.NewStore(dir)
	if err != nil {
		return "", nil, fmt.Errorf("OCI layout %s: %w", dir, err)
	}
	return ":" + orLatest(tag) + "@" + digest, store, nil
}

func orLatest(tag string) string {
	if tag == "" {
		return "latest"
	}
	return tag
}

func addLocal(solve *client.SolveOpt, name, dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", dir)
	}
	mount, err := fsutil.NewFS(dir)
	if err != nil {
		return err
	}
	solve.LocalMounts[name] = mount
	return nil
}

// isRemote says whether BuildKit fetches a context itself.
func isRemote(context string) bool {
	for _, prefix := range []string{"http://", "https://", "git://", "ssh://", "git@", "github.com/"} {
		if strings.HasPrefix(context, prefix) {
			return true
		}
	}
	return false
}
