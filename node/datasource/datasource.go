// Package datasource finds the cloud-config that somebody attached to a machine as a volume.
//
// Two forms are known, both cloud-init's:
//
//	NoCloud       a volume labelled cidata        user-data, meta-data (YAML)
//	config drive  a volume labelled config-2      openstack/latest/user_data, openstack/latest/meta_data.json
//
// The volume is an ISO, a FAT or an ext4, on a whole device or on a partition. It is read by this program, never
// mounted: whoever made it has not been asked who he is, and a file system driver of the kernel trusts what it reads.
//
// References: cloud-init's documentation of the data sources NoCloud and ConfigDrive, and of user-data formats.
package datasource

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/internal/bounded"
)

// Config is what one file of a volume says.
type Config struct {
	Name string // for people: volume and file, such as "/dev/sr0 (cidata): user-data"
	Data []byte // a cloud-config
	Err  error  // why there is none; Data is empty then
}

// kinds are the forms of volumes, the one that counts less first.
var kinds = []struct {
	label          string
	user, metadata string
	meta           func([]byte) ([]byte, error)
}{
	{"cidata", "user-data", "meta-data", noCloud},
	{"config-2", "openstack/latest/user_data", "openstack/latest/meta_data.json", configDrive},
}

// Find returns what the volumes below a root's /dev say, what counts less first: of a volume its metadata, which
// becomes a cloud-config, and then its user data. Devices that cannot be read are none.
func Find(root string) ([]Config, error) {
	entries, err := os.ReadDir(filepath.Join(root, "sys/class/block"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find configs on volumes: %w", err)
	}
	found := make([][]Config, len(kinds))
	for _, e := range entries {
		// What is assembled here by others, and what has no medium in it, is nobody's stick.
		if name := e.Name(); !strings.HasPrefix(name, "loop") && !strings.HasPrefix(name, "dm-") &&
			!strings.HasPrefix(name, "zram") && !strings.HasPrefix(name, "ram") {
			readDevice(filepath.Join(root, "dev", name), "/dev/"+name, found)
		}
	}
	return slices.Concat(found...), nil
}

// readDevice adds what a device says to its kind's list.
func readDevice(path, name string, found [][]Config) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return
	}
	v, ok := disk.OpenVolume(f, size)
	if !ok {
		return
	}
	for i, k := range kinds {
		if !strings.EqualFold(v.Label, k.label) {
			continue
		}
		from := name + " (" + v.Label + "): "
		files, err := v.Open()
		if err != nil {
			found[i] = append(found[i], Config{Name: from + v.FS, Err: err})
			continue
		}
		found[i] = append(found[i], read(files, from, k.metadata, k.meta)...)
		found[i] = append(found[i], read(files, from, k.user, userData)...)
	}
}

// read returns the config that a file is, none where it is not there or says nothing.
func read(files fs.FS, from, name string, parse func([]byte) ([]byte, error)) []Config {
	b, err := bounded.ReadFile(files, name, config.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		b, err = parse(b)
	}
	if err == nil && len(b) == 0 {
		return nil
	}
	if err != nil {
		b = nil
	}
	return []Config{{Name: from + name, Data: b, Err: err}}
}

// firstLine returns the first line of a text, without its end.
func firstLine(b []byte) string {
	s := bufio.NewScanner(strings.NewReader(string(b[:min(len(b), 256)])))
	s.Scan()
	return strings.TrimSpace(s.Text())
}
