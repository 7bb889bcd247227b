// Package unlock opens the encrypted partitions of an installed disk, after the release was verified and before
// anything on them is needed: first what opens by itself, a secret of the machine's own that a token names, then a
// person at the console. What nothing opens stays as it is: the node starts with what needs no key.
package unlock

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/disk/luks"
	"github.com/kairos-buildkit/kairos/internal/blockdev"
	"github.com/kairos-buildkit/kairos/internal/initramfs/console"
	"github.com/kairos-buildkit/kairos/layout"
)

// Machine is what is taken of the machine that boots.
type Machine struct {
	Boot *layout.Boot
	Log  *console.Log
	// Load loads kernel modules.
	Load func(names ...string) error
	// Hold takes the bound on the time away, until what it returns is called: a person may have to come first.
	Hold func() func()
	// Unsealers return the secret that a token stands for, by its type.
	Unsealers map[string]Unsealer

	mapVolume func(name string, device *os.File, h *luks.Header, key []byte) (string, error)
	consoles  func() *consoles
}

// Unsealer returns the secret of a token's keyslots.
type Unsealer func(token luks.Token) (secret []byte, err error)

// Attempts is how often a person may type a key, and Patience how long each may take.
const (
	Attempts = 3
	Patience = 5 * time.Minute
)

// maxMemory bounds what the derivation of a key may take of the machine's memory, in bytes.
const maxMemory = 1 << 30

// volume is an encrypted partition.
type volume struct {
	name   string
	device *os.File
	header *luks.Header
}

// Open opens the encrypted partitions, and notes in the record of the boot what they are, and what has opened them.
func Open(m Machine) {
	m.mapVolume, m.consoles = blockdev.OpenVolume, openConsoles
	m.unlock()
}

func (m Machine) unlock() {
	all := m.volumes()
	if len(all) == 0 {
		return
	}
	defer func() {
		for _, v := range all {
			v.device.Close()
		}
	}()
	if err := m.Load("dm_crypt"); err != nil {
		m.Log.Info("%v", err) // it may be built in
	}
	locked := m.unseal(all)
	if len(locked) > 0 {
		defer m.Hold()()
		c := m.consoles()
		defer c.close()
		locked = m.ask(locked, c)
	}
	for _, v := range locked {
		m.problem(fmt.Errorf("%s is encrypted, and nothing has opened it: restart the machine, and type its recovery "+
			"key or passphrase on the console", layout.LabelOf(v.name)))
	}
}

// volumes finds the partitions that are encrypted.
func (m Machine) volumes() (all []volume) {
	for _, name := range layout.Encryptable() {
		device := m.Boot.Devices[name]
		if device == "" {
			continue
		}
		v, err := openEncrypted(name, device)
		switch {
		case errors.Is(err, luks.ErrNone):
			continue
		case err != nil:
			m.problem(fmt.Errorf("%s is encrypted, and cannot be opened: %w", layout.LabelOf(name), err))
		default:
			all = append(all, v)
		}
		m.encrypted(name, "")
	}
	return all
}

// openEncrypted opens the device of a partition, for writing where it is encrypted.
func openEncrypted(name, device string) (v volume, err error) {
	f, err := os.Open(device)
	if err != nil {
		return v, luks.ErrNone // whoever mounts it says that
	}
	h, err := luks.Read(f)
	f.Close()
	if err != nil {
		return v, err
	}
	if f, err = os.OpenFile(device, os.O_RDWR, 0); err != nil {
		return v, err
	}
	return volume{name, f, h}, nil
}

// encrypted notes a partition, and what has opened it.
func (m Machine) encrypted(name, by string) {
	if m.Boot.Encrypted == nil {
		m.Boot.Encrypted = map[string]layout.Encrypted{}
	}
	e, ok := m.Boot.Encrypted[name]
	if !ok {
		e.Device = m.Boot.Devices[name]
	}
	e.UnlockedBy = by
	m.Boot.Encrypted[name] = e
}

func (m Machine) problem(err error) {
	m.Log.Crit("%v", err)
	m.Boot.Problems = append(m.Boot.Problems, err.Error())
}

// unseal opens what a token opens by itself, and returns the others.
func (m Machine) unseal(locked []volume) (left []volume) {
	for _, v := range locked {
		if !m.unsealOne(v) {
			left = append(left, v)
		}
	}
	return left
}

func (m Machine) unsealOne(v volume) bool {
	tokens := v.header.Tokens()
	for _, t := range tokens {
		unseal := m.Unsealers[t.Type]
		if unseal == nil {
			continue
		}
		secret, err := unseal(t)
		if err == nil {
			err = m.open(v, secret, t.Type, t.Keyslots...)
		}
		if err == nil {
			return true
		}
		m.problem(fmt.Errorf("%s does not open by %s: %w", layout.LabelOf(v.name), t.Type, err))
	}
	return false
}

// ask has a person type a key, which opens all that it opens, and returns the others.
func (m Machine) ask(locked []volume, c *consoles) []volume {
	for n := 0; n < Attempts; n++ {
		names := ""
		for i, v := range locked {
			if i > 0 {
				names += " and "
			}
			names += layout.LabelOf(v.name)
		}
		typed, err := c.ask(fmt.Sprintf("\n%s: encrypted. "+layout.AsksForKey+" (%d of %d): ",
			names, n+1, Attempts), Patience)
		if err != nil {
			c.say("\nno key was typed: " + err.Error() + "\n")
			return locked
		}
		var left []volume
		for _, v := range locked {
			if err := m.try(v, typed); err != nil {
				c.say("\n" + layout.LabelOf(v.name) + ": " + err.Error() + "\n")
				left = append(left, v)
			} else {
				c.say("\n" + layout.LabelOf(v.name) + " is open\n")
			}
		}
		if len(left) < len(locked) {
			n = -1 // each may have a key of its own
		}
		if locked = left; len(locked) == 0 {
			return nil
		}
	}
	return locked
}

// try opens a volume by what was typed: as a recovery key where it looks like one, else as a passphrase.
func (m Machine) try(v volume, typed string) error {
	var recovery, other []string
	for _, t := range v.header.Tokens() {
		if t.Type == layout.TokenRecovery {
			recovery = append(recovery, t.Keyslots...)
		} else {
			other = append(other, t.Keyslots...)
		}
	}
	if key, ok := luks.RecoveryKey(typed); ok && len(recovery) > 0 {
		if err := m.open(v, []byte(key), layout.UnlockedByRecovery, recovery...); !errors.Is(err, luks.ErrSecret) {
			return err
		}
	}
	var passphrases []string
	for _, s := range v.header.Slots() {
		if !slices.Contains(recovery, s) && !slices.Contains(other, s) {
			passphrases = append(passphrases, s)
		}
	}
	if len(passphrases) == 0 {
		return luks.ErrSecret
	}
	return m.open(v, []byte(typed), layout.UnlockedByPassphrase, passphrases...)
}

// open opens a volume by a secret, and has everything else use what is in it.
func (m Machine) open(v volume, secret []byte, by string, slots ...string) error {
	key, _, err := v.header.Open(v.device, secret, memory(), slots...)
	if err != nil {
		return err
	}
	defer clear(key)
	if err := v.header.Heal(v.device); err != nil {
		m.Log.Info("%v", err) // the other copy serves
	}
	device, err := m.mapVolume(layout.MapperName(v.name), v.device, v.header, key)
	if err != nil {
		return err
	}
	m.Boot.Devices[v.name] = device
	m.encrypted(v.name, by)
	m.Log.Info("%s (%s) is opened by its %s", layout.LabelOf(v.name), m.Boot.Encrypted[v.name].Device, by)
	return nil
}

// memory is what the derivation of a key may take: half of what the machine has, or less.
func memory() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 64 << 20
	}
	return min(maxMemory, uint64(info.Freeram)*uint64(info.Unit)/2)
}
