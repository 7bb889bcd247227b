// Package tpm is a machine's TPM 2.0, in what Kairos has it do. It seals secrets for what the machine starts
// ([TPM.Seal], [TPM.Unseal]), is told what that is ([TPM.Extend]), and keeps the lowest epochs that the machine starts
// ([TPM.Raise]): in an NV index that outlives disks, and that an older disk, or an older boot file with the same code,
// does not bring back to what it was.
//
// The index is of the owner hierarchy, which has no password on most machines. What is in it, in big endian:
//
//	8 bytes  "KairosEp"
//	4 bytes  the lowest epoch of the system, see [layout.Release]
//	4 bytes  the lowest epoch of the recovery system
//
// Everybody who reaches the TPM reads it; the owner's authorization writes it, defines it and removes it. So it stops
// nobody who is root on the running system, or who clears the TPM in the firmware's setup. A TPM has no index that
// only grows and takes a number as it is: its counters begin where another one has ended, and count in steps. So
// that it never falls is what [TPM.Raise] sees to.
//
// Reference: TPM 2.0 Library, part 2 (13, NV storage structures) and part 3 (31, non-volatile storage); Registry of
// Reserved TPM 2.0 Handles and Localities 1.1, 2.2.2; Linux, drivers/char/tpm/tpm-dev-common.c.
package tpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// Index is the NV index, one of those that the registry leaves to a platform's owner.
const Index = 0x01804b52

// Timeout bounds how long a TPM may take for one command.
const Timeout = 10 * time.Second

// ErrNone says that the machine has no TPM 2.0 that the kernel knows.
var ErrNone = errors.New("this machine has no TPM")

// magic begins what is in the index: an index of somebody else's is not taken for ours.
const magic = "KairosEp"

// Floors are the lowest epochs that a machine starts; 0 where there is none.
type Floors struct {
	// System is that of what starts from STATE, and of a live medium.
	System int64
	// Recovery is that of the recovery system.
	Recovery int64
}

// Of returns the floor of what has a role: [layout.RoleSystem] and the others.
func (f Floors) Of(role string) int64 {
	if role == layout.RoleRecovery {
		return f.Recovery
	}
	return f.System
}

// TPM is an open TPM.
type TPM struct {
	t  transport.TPM
	fd int // of the device, which is locked while the index is changed
}

// Open opens the TPM of the machine whose devices are in a folder, such as /dev. Where there is none it is [ErrNone].
// It is the device that the kernel shares with whoever opens it, which TPMs 2.0 alone have.
func Open(dev string) (*TPM, error) {
	name := dev + "/tpmrm0"
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case err == nil:
		return On(fd), nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return nil, ErrNone
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: err}
}

// On is a TPM behind an open file that does not block: a device, or a connection to a TPM in software. [TPM.Close]
// closes it.
func On(fd int) *TPM { return &TPM{&device{fd: fd, timeout: Timeout}, fd} }

// Close closes the device. It waits for a command that was not answered in time, as long as the kernel does.
func (t *TPM) Close() error { return unix.Close(t.fd) }

// device sends commands to a file as the kernel's driver takes them: one write, and then one read.
type device struct {
	fd      int
	timeout time.Duration
}

// maxResponse is more than a TPM says to any command (TPM2_MAX_RESPONSE_SIZE of the PC Client profile: 4096).
const maxResponse = 4096

// Send implements [transport.TPM]. Without a bound a TPM that hangs would have whoever asks hang, too.
func (d *device) Send(command []byte) ([]byte, error) {
	deadline := time.Now().Add(d.timeout)
	if n, err := unix.Write(d.fd, command); err != nil || n != len(command) {
		return nil, fmt.Errorf("send a command to the TPM: %d bytes: %w", n, err)
	}
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return nil, fmt.Errorf("the TPM does not answer within %v", d.timeout)
		}
		poll := []unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(left.Milliseconds())+1)
		if errors.Is(err, unix.EINTR) || err == nil && n == 0 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("wait for the TPM: %w", err)
		}
		b := make([]byte, maxResponse)
		n, err = unix.Read(d.fd, b)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the TPM's answer: %w", err)
		}
		if n == 0 {
			return nil, errors.New("the TPM says nothing")
		}
		return b[:n], nil
	}
}

// attributes are the index's, but for what the TPM adds when it is written.
var attributes = tpm2.TPMANV{
	OwnerWrite: true, OwnerRead: true, AuthRead: true, WriteAll: true, NT: tpm2.TPMNTOrdinary,
	NoDA: true, // a TPM that is locked for wrong passwords still answers
}

const size = len(magic) + 4 + 4

// Floors reads what the TPM holds. An index that is not there, or was never written, holds none.
func (t *TPM) Floors() (Floors, error) {
	f, _, err := t.read()
	if err != nil {
		return Floors{}, fmt.Errorf("read the lowest epochs from the TPM: %w", err)
	}
	return f, nil
}

// read returns the index's name with what is in it, nil where it is not there.
func (t *TPM) read() (f Floors, name *tpm2.TPM2BName, err error) {
	var public *tpm2.NVReadPublicResponse
	err = again(func() error {
		public, err = tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(Index)}.Execute(t.t)
		return err
	})
	if errors.Is(err, tpm2.TPMRCHandle) {
		return f, nil, nil
	}
	if err != nil {
		return f, nil, err
	}
	is, err := public.NVPublic.Contents()
	if err != nil {
		return f, nil, err
	}
	foreign := func(what string) error {
		return fmt.Errorf(
			"its index %#x is not as Kairos makes it (%s): whoever made it has to remove it", Index, what)
	}
	a := is.Attributes
	written := a.Written
	a.Written = false
	if a != attributes {
		return f, nil, foreign("attributes")
	}
	if is.NameAlg != tpm2.TPMAlgSHA256 || int(is.DataSize) != size || len(is.AuthPolicy.Buffer) > 0 {
		return f, nil, foreign("its algorithm, policy or size")
	}
	name = &public.NVName
	if !written {
		return f, name, nil
	}
	var content *tpm2.NVReadResponse
	err = again(func() error {
		content, err = tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: Index, Name: *name, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: Index, Name: *name}, Size: uint16(size),
		}.Execute(t.t)
		return err
	})
	if err != nil {
		return f, nil, err
	}
	b := content.Data.Buffer
	if len(b) != size || !bytes.HasPrefix(b, []byte(magic)) {
		return f, nil, foreign("content")
	}
	b = b[len(magic):]
	f.System, f.Recovery = int64(binary.BigEndian.Uint32(b)), int64(binary.BigEndian.Uint32(b[4:]))
	return f, name, nil
}

// Raise raises each of the floors to what is given, and leaves one alone that is higher. It defines the index where
// there is none. It says what the TPM holds then.
func (t *TPM) Raise(to Floors) (Floors, error) {
	f, err := t.raise(to)
	if err == nil {
		return f, nil
	}
	return f, fmt.Errorf("raise the lowest epochs in the TPM: %w%s", err, ownersPassword(err))
}

// ownersPassword says what to do where a TPM's owner has set a password.
func ownersPassword(err error) string {
	if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
		return ": its owner hierarchy has a password: `tpm2_changeauth -c owner -p PASSWORD` takes it away"
	}
	return ""
}

func (t *TPM) raise(to Floors) (Floors, error) {
	// Two that read the same and write after each other would leave what the second one wants, higher or not.
	if err := unix.Flock(t.fd, unix.LOCK_EX); err != nil {
		return Floors{}, err
	}
	defer func() { _ = unix.Flock(t.fd, unix.LOCK_UN) }() // closing the file does it, too
	have, name, err := t.read()
	if err != nil {
		return Floors{}, err
	}
	want := Floors{max(have.System, to.System), max(have.Recovery, to.Recovery)}
	if want == have {
		return have, nil // a TPM's memory wears
	}
	if name == nil {
		if err := t.define(); err != nil {
			return have, err
		}
		if _, name, err = t.read(); err != nil {
			return have, err
		}
		if name == nil {
			return have, errors.New("it does not keep the index")
		}
	}
	b := []byte(magic)
	b = binary.BigEndian.AppendUint32(b, uint32(want.System))
	b = binary.BigEndian.AppendUint32(b, uint32(want.Recovery))
	err = again(func() error {
		_, err := tpm2.NVWrite{
			AuthHandle: owner(), NVIndex: tpm2.NamedHandle{Handle: Index, Name: *name},
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: b},
		}.Execute(t.t)
		return err
	})
	if err != nil {
		return have, err
	}
	got, _, err := t.read()
	if err == nil && got != want {
		err = fmt.Errorf("it gives back %+v where %+v was written", got, want)
	}
	return got, err
}

func (t *TPM) define() error {
	return again(func() error {
		_, err := tpm2.NVDefineSpace{
			AuthHandle: owner(),
			PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
				NVIndex: Index, NameAlg: tpm2.TPMAlgSHA256, Attributes: attributes, DataSize: uint16(size),
			}),
		}.Execute(t.t)
		return err
	})
}

func owner() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
}

// mostAgain is how often a command is sent that the TPM puts off, with a pause before each.
const (
	mostAgain = 20
	pause     = 200 * time.Millisecond
)

// again sends a command again while the TPM says that it is busy: it tests itself, or spares its memory.
func again(send func() error) (err error) {
	for range mostAgain {
		err = send()
		busy := false
		for _, code := range []tpm2.TPMRC{
			tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate, tpm2.TPMRCNVUnavailable,
		} {
			busy = busy || errors.Is(err, code)
		}
		if !busy {
			return err
		}
		time.Sleep(pause)
	}
	return err
}
