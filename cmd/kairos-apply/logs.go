package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/node"
)

func (a *app) logs() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "logs",
		Short: "Write one archive of what helps to find out what happened on this node",
		Long: `Write one archive (tar.gz) for whoever looks into a problem: status with the reports of releases that
failed, what was booted, boot entries, the journal of this boot and the one before it, the kernel's
log, and the cloud-config with a report of its keys. Passwords, what files and commands say, and
all else that may be a secret is not in the config that is added. Journals and files are as they are.

The block logs: of the cloud-config names more:

  logs:
    journal: [my-app]             # units
    files: ["/var/log/my/*.log"]  # files, of which the last 16 MiB are taken

` + exitCodes,
		Example: `  kairos-apply logs
  kairos-apply logs --file - | ssh me@example.org 'cat >logs.tar.gz'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := node.ReadBoot("/"); err != nil {
				return err
			}
			return a.privately(c.Context(), func() (err error) {
				m, err := node.OpenReadOnly()
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, m.Close()) }()
				return a.writeNew(file, func(w io.Writer) error { return m.Logs(c.Context(), w) })
			})
		},
	}
	c.Flags().StringVarP(&file, "file", "f", "kairos-logs.tar.gz",
		"`FILE` to write, which must not be there yet; - is stdout")
	return c
}

// writeNew writes a file for root alone that is not there yet, whole or not at all.
func (a *app) writeNew(name string, write func(io.Writer) error) error {
	if name == "-" {
		return write(a.out)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return &node.RefusedError{What: name + " is there already: remove it, or name another file with --file"}
	}
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	_, err = fmt.Fprintf(a.out, "Wrote %s.\n", name)
	return err
}
