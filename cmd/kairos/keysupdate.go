package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/uki"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

type keysUpdate struct {
	keys                   string // folder
	certificates, programs []string
}

func newKeysUpdateCommand(s streams) *cobra.Command {
	var o keysUpdate
	c := &cobra.Command{
		Use:   "update [flags] db|dbx FILE.auth",
		Short: "Sign what is added to the db or dbx of firmware that has your keys",
		Long: `Writes FILE.auth, which adds to db, from where the firmware starts programs, or to dbx, which revokes
them. KEK.key of the folder --keys signs it, as "kairos keys new --secure-boot" has made it. On each
machine efi-updatevar (package efitools) gives it to the firmware, which keeps what it has.

--certificate names the certificate of a key that signs boot files, --program a program by itself, such as
a UKI: its digest is added.`,
		Example: `  kairos keys update --keys keys --certificate new/db.crt db new.auth
  kairos keys update --keys keys --certificate keys/db.crt dbx old.auth`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 2 || args[0] != "db" && args[0] != "dbx" {
				return usagef("%s needs two arguments: db or dbx, and the file to write, such as new.auth",
					c.CommandPath())
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error { return o.run(args[0], args[1], s) },
	}
	f := c.Flags()
	f.StringVar(&o.keys, "keys", "keys", "the folder with KEK.key, KEK.crt and PK.crt")
	f.StringArrayVar(&o.certificates, "certificate", nil, "a certificate to add, PEM or DER (repeatable)")
	f.StringArrayVar(&o.programs, "program", nil, "an EFI program whose digest is to be added (repeatable)")
	return c
}

func (o keysUpdate) run(variable, file string, s streams) error {
	if len(o.certificates)+len(o.programs) == 0 {
		return usagef("nothing is to be added: give --certificate or --program")
	}
	var d secureboot.Database
	var err error
	if d.Certificates, err = certificates(o.certificates); err != nil {
		return err
	}
	for _, name := range o.programs {
		sum, err := programDigest(name)
		if err != nil {
			return err
		}
		d.Programs = append(d.Programs, sum)
	}
	read := func(name string) ([]byte, error) { return readKeyFile(filepath.Join(o.keys, name), s) }
	key, err := read("KEK.key")
	if err != nil {
		return err
	}
	cert, err := read("KEK.crt")
	if err != nil {
		return err
	}
	kek, err := secureboot.NewSigner(key, cert)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(o.keys, "KEK.key"), err)
	}
	owner, err := certificates([]string{filepath.Join(o.keys, "PK.crt")})
	if err != nil {
		return err
	}
	b, err := kek.Append(variable, d, secureboot.OwnerOf(owner[0]), time.Now())
	if err != nil {
		return err
	}
	if u, err := secureboot.ParseUpdate(b); err != nil || u.Name != variable || !u.Appends {
		return fmt.Errorf("what was signed is no addition to %s: %w", variable, err)
	}
	if err := writeNew(file, b, 0o644); err != nil {
		return err
	}
	for _, c := range d.Certificates {
		fmt.Fprintf(s.out, "%s gets the certificate %s\n", variable, secureboot.Name(c))
	}
	for i, sum := range d.Programs {
		fmt.Fprintf(s.out, "%s gets the program %s, sha256:%x\n", variable, o.programs[i], sum)
	}
	_, err = fmt.Fprintf(s.out, "On each machine: efi-updatevar -a -f %s %s\n", filepath.Base(file), variable)
	return err
}

// maxProgram bounds an EFI program in bytes.
const maxProgram = 1 << 30

func programDigest(name string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return sum, usageError{err}
	}
	defer f.Close()
	b, err := bounded.ReadAll(f, maxProgram)
	if err == nil {
		sum, err = uki.Authenticode(b)
	}
	if err != nil {
		return sum, fmt.Errorf("%s: %w", name, err)
	}
	return sum, nil
}
