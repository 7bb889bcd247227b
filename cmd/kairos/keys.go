package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/trust/sign"
)

func newKeysCommand(s streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "keys",
		Short: "Make and show keys that sign releases, and make those of Secure Boot",
		Args:  noArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newKeysNewCommand(s), newKeysShowCommand(s), newKeysUpdateCommand(s))
	return c
}

func newKeysNewCommand(s streams) *cobra.Command {
	algorithm := trust.Ed25519
	var secureBoot bool
	var o secureBootKeys
	c := &cobra.Command{
		Use:   "new [flags] FILE",
		Short: "Make a key: FILE is the private one, FILE.pub the public one",
		Long: `Makes a key that signs releases: FILE is the private one, FILE.pub the public one.

With --secure-boot, FILE is a new folder that gets the keys of a firmware's owner, RSA with
2048 bits: PK, KEK and db, each with its private key (.key), its certificate (.crt), and the
file that enrolls it in a firmware that is in setup mode (.auth). db signs boot files:

  COPY keys/db.crt keys/*.auth /usr/lib/kairos/secureboot/     in the Dockerfile
  kairos build --secret id=secureboot-key,src=keys/db.key …    in the build

And pcr, without a certificate (pcr.pub is the public key): it signs what a machine's TPM
measures of boot files. Kairos itself seals nothing by that yet.

  COPY keys/pcr.pub /usr/lib/kairos/                           in the Dockerfile
  kairos build --secret id=pcr-key,src=keys/pcr.key …          in the build

Keep the private keys to yourself: who has db.key makes systems that your machines start,
who has PK.key or KEK.key decides whose key that is, and who has pcr.key makes systems
that a TPM unseals for.`,
		Args: oneArg("the private key's file, such as release.key, or with --secure-boot a new folder"),
		RunE: func(c *cobra.Command, args []string) error {
			if secureBoot {
				if c.Flags().Changed("type") {
					return usagef("--type: the keys of Secure Boot are RSA: leave it out")
				}
				return o.make(args[0], s)
			}
			if c.Flags().Changed("name") || len(o.kek) > 0 || len(o.db) > 0 {
				return usagef("--name, --kek-certificate and --db-certificate are for --secure-boot")
			}
			if algorithm != trust.Ed25519 && algorithm != trust.ECDSA {
				return usagef("--type %s: want %s or %s", algorithm, trust.Ed25519, trust.ECDSA)
			}
			key, err := sign.NewKey(algorithm)
			if err != nil {
				return err
			}
			private, err := key.PrivatePEM()
			if err != nil {
				return err
			}
			if err := writeNew(args[0], private, 0o600); err != nil {
				return err
			}
			if err := writeNew(args[0]+".pub", key.PEM(), 0o644); err != nil {
				return errors.Join(err, os.Remove(args[0]))
			}
			fmt.Fprintf(s.out, "%s %s\nKeep %s to yourself; %s.pub is for everyone.\n",
				key.Algorithm, key.ID, args[0], args[0])
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&algorithm, "type", algorithm, "what the key is: ed25519 or ecdsa-p256")
	f.BoolVar(&secureBoot, "secure-boot", false, "make a firmware's keys, PK, KEK and db, in the folder FILE")
	f.StringVar(&o.name, "name", "Kairos", "with --secure-boot: whose keys they are, in their certificates")
	f.StringArrayVar(&o.kek, "kek-certificate", nil,
		"with --secure-boot: a certificate that KEK has, too, such as Microsoft's (repeatable)")
	f.StringArrayVar(&o.db, "db-certificate", nil,
		"with --secure-boot: a certificate that db has, too, such as the one for option ROMs (repeatable)")
	return c
}

func newKeysShowCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE",
		Short: "Print a key's type, its ID and the public key, from the public or the private key's file, or a token",
		Args:  oneArg("the key's file, or a token's pkcs11:URI"),
		RunE: func(_ *cobra.Command, args []string) error {
			if strings.HasPrefix(args[0], pkcs11Scheme) {
				key, err := openToken(args[0])
				if err != nil {
					return err
				}
				return printKey(key.PublicKey, s)
			}
			b, err := readKeyFile(args[0], s)
			if err != nil {
				return err
			}
			key, err := trust.ParsePublicKey(b)
			if err != nil {
				private, errPrivate := sign.ParseKey(b)
				if errPrivate != nil {
					return fmt.Errorf("%s: %w", args[0], errors.Join(err, errPrivate))
				}
				key = private.PublicKey
			}
			return printKey(key, s)
		},
	}
}

func printKey(key trust.PublicKey, s streams) error {
	_, err := fmt.Fprintf(s.out, "%s %s\n%s", key.Algorithm, key.ID, key.PEM())
	return err
}

// writeNew writes a file that is not there yet: a key is never overwritten.
func writeNew(name string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return usageError{err}
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

// readKeyFile reads a small file, or standard input where its name is a dash.
func readKeyFile(name string, s streams) ([]byte, error) {
	if name == "-" {
		return bounded.ReadAll(s.in, trust.MaxKeySize)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, usageError{err}
	}
	defer f.Close()
	b, err := bounded.ReadAll(f, trust.MaxKeySize)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

func publicKeys(names []string, s streams) (keys []trust.PublicKey, err error) {
	for _, name := range names {
		b, err := readKeyFile(name, s)
		if err != nil {
			return nil, err
		}
		key, err := trust.ParsePublicKey(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func oneArg(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("%s needs one argument: %s", c.CommandPath(), what)
		}
		return nil
	}
}
