package luks

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const memory = 128 << 20

// file is one that is not fsynced: a test's power cuts are before and within its writes.
type file struct{ *os.File }

func (file) Sync() error { return nil }

// volume makes a volume in a file, opened by a recovery key and a passphrase.
func volume(t *testing.T, sectorSize int64) (f file, h *Header, key []byte, recovery string) {
	t.Helper()
	made, err := os.Create(filepath.Join(t.TempDir(), "volume"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { made.Close() })
	f = file{made}
	if err := f.Truncate(20 << 20); err != nil {
		t.Fatal(err)
	}
	if h, key, err = New("COS_PERSISTENT", sectorSize); err != nil {
		t.Fatal(err)
	}
	recovery = NewRecoveryKey()
	if err := errors.Join(
		h.Add(f, key, []byte(recovery), Random, map[string]any{"type": "systemd-recovery"}),
		h.Add(f, key, []byte("correct horse"), Passphrase, nil),
	); err != nil {
		t.Fatal(err)
	}
	return f, h, key, recovery
}

// cryptsetup runs the judge. A secret is its standard input.
func cryptsetup(t *testing.T, secret string, args ...string) (string, error) {
	t.Helper()
	c := exec.Command("cryptsetup", args...)
	c.Stdin = strings.NewReader(secret)
	out, err := c.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err) // a missing judge fails
	}
	return string(out), err
}

func opens(t *testing.T, name, secret string) bool {
	t.Helper()
	out, err := cryptsetup(t, secret, "luksOpen", "--test-passphrase", "--key-file", "-", name)
	if err != nil && !strings.Contains(out, "No key available") {
		t.Errorf("cryptsetup: %s", out)
	}
	return err == nil
}

// What is written here, cryptsetup reads.
func TestCryptsetupReads(t *testing.T) {
	for _, sector := range []int64{512, 4096} {
		f, _, key, recovery := volume(t, sector)
		out, err := cryptsetup(t, "", "luksDump", f.Name())
		if err != nil {
			t.Fatal(out)
		}
		for _, want := range []string{"COS_PERSISTENT", "systemd-recovery", "aes-xts-plain64", "argon2id", "pbkdf2"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %s in\n%s", want, out)
			}
		}
		if !opens(t, f.Name(), recovery) || !opens(t, f.Name(), "correct horse") || opens(t, f.Name(), "wrong") {
			t.Error("cryptsetup does not open what it should, or what it should not")
		}
		out, err = cryptsetup(t, recovery, "luksDump", "--dump-volume-key", "-q", "--key-file", "-", f.Name())
		if err != nil || dumped(t, out) != string(key) {
			t.Errorf("cryptsetup has another volume key: %v", err)
		}
	}
}

var keyLine = regexp.MustCompile(`(?m)^(?:MK dump:|\s)\s*((?:[0-9a-f]{2} )+)\s*$`)

// dumped reads a volume key that cryptsetup shows.
func dumped(t *testing.T, out string) string {
	t.Helper()
	var key []byte
	for _, m := range keyLine.FindAllStringSubmatch(out, -1) {
		for _, b := range strings.Fields(m[1]) {
			key = append(key, unhex(b[0])<<4|unhex(b[1]))
		}
	}
	return string(key)
}

func unhex(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

// What cryptsetup writes, is read here, and what is changed here it still reads.
func TestReadsCryptsetup(t *testing.T) {
	for _, how := range [][]string{
		{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--hash", "sha256"},
		{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--hash", "sha512", "--sector-size", "4096"},
		{"--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "1024", "--key-size", "256"},
	} {
		name := filepath.Join(t.TempDir(), "volume")
		if err := os.WriteFile(name, make([]byte, 20<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		args := append([]string{"luksFormat", "-q", "--type", "luks2", "--key-file", "-"}, how...)
		if out, err := cryptsetup(t, "theirs", append(args, name)...); err != nil {
			t.Fatal(out)
		}
		if out, err := cryptsetup(t, `{"type":"other","keyslots":["0"],"mine": {"deep": [1, 2.50]}}`,
			"token", "import", name); err != nil {
			t.Fatal(out)
		}
		made, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer made.Close()
		f := file{made}
		h, err := Read(f)
		if err != nil {
			t.Fatal(err)
		}
		key, slot, err := h.Open(f, []byte("theirs"), memory)
		if err != nil || slot != "0" {
			t.Fatal(slot, err)
		}
		if _, _, err := h.Open(f, []byte("wrong"), memory); !errors.Is(err, ErrSecret) {
			t.Errorf("a wrong key: %v", err)
		}
		if out, err := cryptsetup(t, "theirs", "luksDump", "--dump-volume-key", "-q", "--key-file", "-",
			name); err != nil || dumped(t, out) != string(key) {
			t.Errorf("another volume key than cryptsetup's: %v", err)
		}
		raw := string(h.Tokens()["0"].Raw)
		if err := h.Add(f, key, []byte("ours"), Random, nil); err != nil {
			t.Fatal(err)
		}
		if !opens(t, name, "theirs") || !opens(t, name, "ours") {
			t.Error("cryptsetup does not open it any more")
		}
		if h, err = Read(f); err != nil || string(h.Tokens()["0"].Raw) != raw || !strings.Contains(raw, "2.50") {
			t.Errorf("a token has changed: %s, was %s, %v", h.Tokens()["0"].Raw, raw, err)
		}
		if err := h.Remove(f, "0"); err != nil {
			t.Fatal(err)
		}
		if opens(t, name, "theirs") || !opens(t, name, "ours") || len(h.Tokens()) != 0 {
			t.Error("the removed keyslot opens, or the other one does not, or the token is left")
		}
	}
}

// Derivation takes no more memory than is allowed, and a header that states too much is refused.
func TestMemoryIsBounded(t *testing.T) {
	f, h, _, _ := volume(t, 512)
	_, _, err := h.Open(f, []byte("correct horse"), 32<<20)
	if !errors.Is(err, ErrSecret) || !strings.Contains(err.Error(), "takes 64 MiB") {
		t.Errorf("%v", err)
	}
	if _, slot, err := h.Open(f, []byte("correct horse"), 64<<20); err != nil || slot != "1" {
		t.Errorf("%s, %v", slot, err)
	}
}

// A damaged copy is no loss, and is made good.
func TestOneCopyIsEnough(t *testing.T) {
	for at, which := range map[int64]string{100: "first", minHeader + 100: "second", 5000: "first's JSON"} {
		f, _, key, recovery := volume(t, 512)
		if _, err := f.WriteAt([]byte{0xff}, at); err != nil {
			t.Fatal(err)
		}
		h, err := Read(f)
		if err != nil {
			t.Fatalf("the %s copy damaged: %v", which, err)
		}
		if !h.stale {
			t.Errorf("the %s copy is damaged, and taken for good", which)
		}
		if got, _, err := h.Open(f, []byte(recovery), memory); err != nil || !bytes.Equal(got, key) {
			t.Errorf("the %s copy damaged: %v", which, err)
		}
		if err := h.Heal(f); err != nil {
			t.Fatal(err)
		}
		for which, at := range []int64{0, minHeader} {
			if _, err := readCopy(f, which, at); err != nil {
				t.Error(err)
			}
		}
		if !opens(t, f.Name(), recovery) {
			t.Error("cryptsetup does not open what was healed")
		}
	}
	f, _, _, _ := volume(t, 512)
	f.WriteAt(make([]byte, 2*minHeader), 0)
	if _, err := Read(f); !errors.Is(err, ErrNone) {
		t.Errorf("both are gone: %v", err)
	}
}

// cut is a device that loses power during one of its writes: half of that is written, and nothing after it.
type cut struct {
	file
	left int
}

var errCut = errors.New("the power is gone")

func (c *cut) WriteAt(b []byte, at int64) (int, error) {
	if c.left--; c.left < 0 {
		if c.left == -1 {
			c.file.WriteAt(b[:len(b)/2/512*512], at)
		}
		return 0, errCut
	}
	return c.file.WriteAt(b, at)
}

// At no moment of a change is a volume without what opened it before.
func TestPowerCuts(t *testing.T) {
	changes := map[string]func(*Header, Device, []byte) error{
		"add":    func(h *Header, d Device, key []byte) error { return h.Add(d, key, []byte("new"), Random, nil) },
		"remove": func(h *Header, d Device, _ []byte) error { return h.Remove(d, "1") },
	}
	for name, change := range changes {
		for n := 0; ; n++ {
			f, _, key, recovery := volume(t, 512)
			h, err := Read(f)
			if err != nil {
				t.Fatal(err)
			}
			failed := change(h, &cut{f, n}, key)
			after, err := Read(f)
			if err != nil {
				t.Fatalf("%s cut at write %d: %v", name, n, err)
			}
			if got, _, err := after.Open(f, []byte(recovery), memory); err != nil || !bytes.Equal(got, key) {
				t.Errorf("%s cut at write %d: %v", name, n, err)
			}
			if err := after.Heal(f); err != nil || !opens(t, f.Name(), recovery) {
				t.Errorf("%s cut at write %d: %v", name, n, err)
			}
			if failed == nil {
				if n != 3 {
					t.Errorf("%s took %d writes", name, n)
				}
				break
			}
			if !errors.Is(failed, errCut) {
				t.Fatal(failed)
			}
		}
	}
}

func TestRecoveryKey(t *testing.T) {
	key := NewRecoveryKey()
	if !regexp.MustCompile(`^([cbdefghijklnrtuv]{8}-){7}[cbdefghijklnrtuv]{8}$`).MatchString(key) {
		t.Error(key)
	}
	for _, typed := range []string{key, strings.ToUpper(key), strings.ReplaceAll(key, "-", ""),
		" " + strings.ReplaceAll(key, "-", " ")} {
		if got, ok := RecoveryKey(typed); !ok || got != key {
			t.Errorf("%q: %q, %v", typed, got, ok)
		}
	}
	for _, typed := range []string{"", "correct horse", key[1:], key + "c", key[:70] + "a"} {
		if _, ok := RecoveryKey(typed); ok {
			t.Errorf("%q is a recovery key", typed)
		}
	}
}

// A volume's mapping ends with the device, in whole sectors.
func TestMapping(t *testing.T) {
	_, h, _, _ := volume(t, 4096)
	m, err := h.Mapping(20<<20 + 1000)
	if want := (Mapping{cipher, 16 << 20, 4 << 20, 0, 4096, false}); err != nil || m != want {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := h.Mapping(16 << 20); err == nil {
		t.Error("there is no room for a segment")
	}
	h.meta.Segments["0"] = json.RawMessage(`{"type":"crypt","offset":"16777216","size":"8192","iv_tweak":"7",` +
		`"encryption":"aes-xts-plain64","sector_size":512}`)
	h.meta.Config.Flags = json.RawMessage(`["allow-discards"]`)
	if m, err = h.Mapping(20 << 20); err != nil || m.Size != 8192 || m.Tweak != 7 || !m.Discards {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err = h.Mapping(16<<20 + 4096); err == nil {
		t.Error("the segment exceeds the device")
	}
}

// encoded returns a first copy with this JSON.
func encoded(area []byte) []byte {
	h := Header{Label: "COS_OEM", UUID: "u", size: minHeader, sequence: 7}
	return h.encode(0, 0, area[:min(len(area), minHeader-binarySize)])
}

// What a header states is within bounds, or it is refused by name.
func TestRefused(t *testing.T) {
	_, h, _, _ := volume(t, 512)
	good, err := json.Marshal(h.meta)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Read(bytes.NewReader(encoded(good))); err != nil {
		t.Fatal(err)
	}
	for what, want := range map[[2]string]string{
		{`"stripes":4000`, `"stripes":400000000`}:                       "400000000 stripes",
		{`"iterations":1000`, `"iterations":1000000000`}:                "1000000000 iterations",
		{`"time":3`, `"time":400`}:                                      "400 passes",
		{`"cpus":4`, `"cpus":200`}:                                      "200 lanes",
		{`"offset":"32768"`, `"offset":"0"`}:                            "it is at 0",
		{`"offset":"290816"`, `"offset":"32768"`}:                       "two keyslots are at one place",
		{`"offset":"290816"`, `"offset":"9223372036854775807"`}:         "it is at 9223372036854775807",
		{`"offset":"16777216"`, `"offset":"4096"`}:                      "at 4096",
		{`"sector_size":512`, `"sector_size":0`}:                        "sectors of 0 bytes",
		{`"sector_size":512`, `"sector_size":1000`}:                     "sectors of 1000 bytes",
		{`"size":"dynamic"`, `"size":"-5"`}:                             `"-5" bytes`,
		{`"json_size":"12288"`, `"json_size":"4096"`}:                   "JSON area of 4096 bytes",
		{`"keyslots_size":"16744448"`, `"keyslots_size":"-4096"`}:       "keyslots of -4096",
		{`"key_size":64`, `"key_size":0`}:                               "keys of 0",
		{`"encryption":"aes-xts-plain64"`, `"encryption":"null"`}:       `"null"`,
		{`"keyslots":["0","1"]`, `"keyslots":["0","9"]`}:                `no keyslot "9"`,
		{`"config":{`, `"config":{"requirements":{"mandatory":["x"]},`}: "finish what cryptsetup",
	} {
		bad := strings.Replace(string(good), what[0], what[1], 1)
		if bad == string(good) {
			t.Fatalf("no %s in %s", what[0], good)
		}
		_, err := Read(bytes.NewReader(encoded([]byte(bad))))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what[1], err, want)
		}
	}
}

func FuzzHeader(f *testing.F) {
	h, _, err := New("COS_OEM", 512)
	if err != nil {
		f.Fatal(err)
	}
	area, _ := json.Marshal(h.meta)
	f.Add(encoded(area)[:512], area)
	raw, _ := json.Marshal(keyslot{Type: "luks2", KeySize: 64, AF: split{"luks1", stripes, "sha256"},
		KDF: Random.kdf(), Area: area0()})
	h.meta.Keyslots["0"] = raw
	area, _ = json.Marshal(h.meta)
	f.Add([]byte{}, area)
	f.Fuzz(func(t *testing.T, fixed, area []byte) {
		b := encoded(area)
		if len(fixed) >= fixedEnd { // a header of any sort, whose checksum does not match
			copy(b, fixed[:fixedEnd])
		}
		h, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		h.Mapping(1 << 30)
		var d memoryDevice
		if err := h.Write(&d); err != nil {
			return // such as JSON that grows
		}
		again, err := Read(bytes.NewReader(d.b))
		if err != nil || again.sequence != h.sequence || again.Label != h.Label || again.UUID != h.UUID ||
			len(again.Slots()) != len(h.Slots()) || len(again.Tokens()) != len(h.Tokens()) {
			t.Errorf("%+v, %v, was %+v", again, err, h)
		}
	})
}

func area0() area {
	return area{Type: "raw", Encryption: cipher, KeySize: keySize, Offset: 2 * minHeader, Size: 258048}
}

type memoryDevice struct{ b []byte }

func (d *memoryDevice) ReadAt(b []byte, at int64) (int, error) {
	return bytes.NewReader(d.b).ReadAt(b, at)
}

func (d *memoryDevice) WriteAt(b []byte, at int64) (int, error) {
	if end := int(at) + len(b); end > len(d.b) {
		d.b = append(d.b, make([]byte, end-len(d.b))...)
	}
	return copy(d.b[at:], b), nil
}
