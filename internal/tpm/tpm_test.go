package tpm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/tpm/tpmtest"
	"github.com/kairos-buildkit/kairos/layout"
)

func start(t *testing.T) *TPM {
	t.Helper()
	tpm := On(tpmtest.Start(t)())
	t.Cleanup(func() { _ = tpm.Close() })
	return tpm
}

// What the TPM holds rises and never falls, each floor apart from the other.
func TestRaise(t *testing.T) {
	connect := tpmtest.Start(t)
	for i, c := range []struct{ to, want Floors }{
		{Floors{}, Floors{}}, // and defines nothing
		{Floors{System: 2}, Floors{2, 0}},
		{Floors{System: 1}, Floors{2, 0}},
		{Floors{Recovery: 1}, Floors{2, 1}},
		{Floors{1, 3}, Floors{2, 3}},
		{Floors{layout.MaxEpoch, 2}, Floors{layout.MaxEpoch, 3}},
		{Floors{}, Floors{layout.MaxEpoch, 3}},
	} {
		tpm := On(connect())
		got, err := tpm.Raise(c.to)
		if err != nil || got != c.want {
			t.Fatalf("step %d: %+v, %v, want %+v", i, got, err, c.want)
		}
		if err := tpm.Close(); err != nil {
			t.Fatal(err)
		}
		tpm = On(connect()) // another program's
		if got, err := tpm.Floors(); err != nil || got != c.want {
			t.Errorf("step %d: read %+v, %v, want %+v", i, got, err, c.want)
		}
		if _, name, err := tpm.read(); err != nil || (name != nil) != (i > 0) {
			t.Errorf("step %d: the index is there: %v, %v", i, name != nil, err)
		}
		if err := tpm.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// shared lets several programs use one TPM, command by command, as the kernel does.
type shared struct {
	mu sync.Mutex
	t  transport.TPM
}

func (s *shared) Send(command []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.t.Send(command)
}

// Of many that raise at once the highest stays: each reads, compares and writes alone.
func TestRaiseAtOnce(t *testing.T) {
	all := &shared{t: start(t).t}
	device := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const most = 24
	var wg sync.WaitGroup
	for i := range int64(most) {
		wg.Go(func() {
			fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			tpm := &TPM{all, fd}
			defer tpm.Close()
			want := Floors{i + 1, most - i}
			got, err := tpm.Raise(want)
			if err != nil || got.System < want.System || got.Recovery < want.Recovery {
				t.Errorf("%+v: %+v, %v", want, got, err)
			}
		})
	}
	wg.Wait()
	tpm := &TPM{t: all}
	if got, err := tpm.Floors(); err != nil || got != (Floors{most, most}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// An index that somebody else has made is not taken for ours, and not written.
func TestForeignIndex(t *testing.T) {
	for name, public := range map[string]tpm2.TPMSNVPublic{
		"a counter": {Attributes: tpm2.TPMANV{
			OwnerWrite: true, OwnerRead: true, AuthRead: true, NT: tpm2.TPMNTCounter, NoDA: true,
		}, DataSize: 8},
		"written by all": {Attributes: func() tpm2.TPMANV {
			a := attributes
			a.AuthWrite = true
			return a
		}(), DataSize: uint16(size)},
		"smaller": {Attributes: attributes, DataSize: 8},
	} {
		tpm := start(t)
		public.NVIndex, public.NameAlg = Index, tpm2.TPMAlgSHA256
		_, err := tpm2.NVDefineSpace{AuthHandle: owner(), PublicInfo: tpm2.New2B(public)}.Execute(tpm.t)
		if err != nil {
			t.Fatal(name, err)
		}
		f, err := tpm.Floors()
		if err == nil || !strings.Contains(err.Error(), "0x1804b52 is not as Kairos makes it") {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
		if f, err := tpm.Raise(Floors{System: 3}); err == nil {
			t.Errorf("%s: raised: %+v", name, f)
		}
	}
	tpm := start(t)
	if err := tpm.define(); err != nil {
		t.Fatal(err)
	}
	// Interrupted here: it holds nothing, and the next one goes on.
	if f, err := tpm.Floors(); err != nil || f != (Floors{}) {
		t.Errorf("not written: %+v, %v", f, err)
	}
	_, name, err := tpm.read()
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.NVWrite{
		AuthHandle: owner(), NVIndex: tpm2.NamedHandle{Handle: Index, Name: *name},
		Data: tpm2.TPM2BMaxNVBuffer{Buffer: make([]byte, size)},
	}.Execute(tpm.t)
	if err != nil {
		t.Fatal(err)
	}
	if f, err := tpm.Floors(); err == nil || !strings.Contains(err.Error(), "content") {
		t.Errorf("other content: %+v, %v", f, err)
	}
}

// A TPM whose owner has a password is read, and says what to do where it cannot be written.
func TestOwnersPassword(t *testing.T) {
	tpm := start(t)
	if _, err := tpm.Raise(Floors{System: 1}); err != nil {
		t.Fatal(err)
	}
	_, err := tpm2.HierarchyChangeAuth{
		AuthHandle: owner(), NewAuth: tpm2.TPM2BAuth{Buffer: []byte("secret")},
	}.Execute(tpm.t)
	if err != nil {
		t.Fatal(err)
	}
	if f, err := tpm.Floors(); err != nil || f.System != 1 {
		t.Errorf("%+v, %v", f, err)
	}
	f, err := tpm.Raise(Floors{System: 2})
	if err == nil || !strings.Contains(err.Error(), "its owner hierarchy has a password") || f.System != 1 {
		t.Errorf("%+v, %v", f, err)
	}
}

// A TPM that hangs is waited for as long as is said, and no longer.
func TestHangs(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	tpm := &TPM{&device{fd: pair[0], timeout: 50 * time.Millisecond}, pair[0]}
	if _, err := tpm.Floors(); err == nil || !strings.Contains(err.Error(), "does not answer within 50ms") {
		t.Error(err)
	}
	if _, err := unix.Write(pair[1], []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	if _, err := tpm.Floors(); err == nil {
		t.Error("nonsense was read")
	}
	if err := tpm.Close(); err != nil {
		t.Fatal(err)
	}
	if tpm, err := Open(t.TempDir()); !errors.Is(err, ErrNone) {
		t.Errorf("%v, %v", tpm, err)
	}
}
