package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
)

// unpack fetches gzip layers and unpacks them into a folder, one over the other, as a process of its own: what an
// upgrade by whole layers costs at least.
func unpack(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return errors.New("usage: kairos-bench unpack DIR URL...")
	}
	for _, url := range args[1:] {
		if err := unpackOne(ctx, args[0], url); err != nil {
			return fmt.Errorf("%s: %w", url, err)
		}
	}
	return nil
}

func unpackOne(ctx context.Context, dir, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	layer, err := gzip.NewReader(answer.Body)
	if err != nil {
		return err
	}
	tar := exec.CommandContext(ctx, "tar", "--extract", "--directory", dir, "--numeric-owner", "--xattrs",
		"--xattrs-include=*")
	tar.Stdin, tar.Stderr = layer, os.Stderr
	if err := tar.Run(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, layer)
	return err
}
