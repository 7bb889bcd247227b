package provision

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// variables are what templates know. Names and units below Values are those of github.com/zcalusic/sysinfo, which yip
// has in its templates: MB of memory, GB of a disk. That package itself may write a machine-id, and takes 120 ms.
func (s *System) variables() map[string]any {
	id := s.line("etc/machine-id")
	mac := hmac.New(sha256.New, []byte(id))
	mac.Write([]byte("yip"))
	protected := hex.EncodeToString(mac.Sum(nil))
	u := make([]byte, 16)
	rand.Read(u)
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	uuid := fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
	random := strings.ToLower(rand.Text() + rand.Text())[:32]

	vendor := layout.ParseOSRelease([]byte(cmp.Or(s.text(layout.OSRelease), s.text(layout.OSReleaseVendor))))
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	host, _ := os.Hostname()
	values := map[string]any{
		"os": map[string]any{"name": vendor["PRETTY_NAME"], "vendor": vendor["ID"], "version": vendor["VERSION_ID"],
			"release": vendor["VERSION_ID"], "architecture": runtime.GOARCH},
		"node": map[string]any{"hostname": host, "machineid": id, "timezone": s.line("etc/timezone")},
		"kernel": map[string]any{
			"release":      unix.ByteSliceToString(uts.Release[:]),
			"version":      unix.ByteSliceToString(uts.Version[:]),
			"architecture": unix.ByteSliceToString(uts.Machine[:]),
		},
		"product": s.dmi("product", "name", "vendor", "version", "serial", "uuid", "sku"),
		"board":   s.dmi("board", "name", "vendor", "version", "serial", "asset_tag"),
		"chassis": s.dmi("chassis", "vendor", "version", "serial", "asset_tag"),
		"bios":    s.dmi("bios", "vendor", "version", "date"),
		"cpu":     s.processor(), "memory": map[string]any{"size": s.memory()},
		"storage": s.disks(), "network": s.networkCards(),
		"Random": random, "ProtectedID": protected,
	}
	return map[string]any{"MachineID": id, "UUID": uuid, "Random": random, "ProtectedID": protected, "Values": values}
}

// dmi reads what the firmware says of a part of the machine.
func (s *System) dmi(part string, keys ...string) map[string]any {
	out := map[string]any{}
	for _, key := range keys {
		file := part + "_" + key
		if file == "product_vendor" {
			file = "sys_vendor"
		}
		out[strings.ReplaceAll(key, "_", "")] = s.line("sys/class/dmi/id/" + file)
	}
	return out
}

// processor reads the processors: of all of them the first one's name, and how many there are.
func (s *System) processor() map[string]any {
	out := map[string]any{"threads": runtime.NumCPU()}
	names := map[string]string{"vendor_id": "vendor", "model name": "model"}
	packages, cores, socket := map[string]bool{}, map[string]bool{}, ""
	b, _ := s.root.ReadFile("proc/cpuinfo", 4<<20) // 1.5 KiB for each of them
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch name := names[key]; {
		case name != "" && out[name] == nil:
			out[name] = value
		case key == "physical id":
			socket, packages[value] = value, true
		case key == "core id":
			cores[socket+"/"+value] = true
		}
	}
	out["cpus"], out["cores"] = max(1, len(packages)), max(1, len(cores))
	return out
}

// memory is the size in MB of the memory that the kernel has.
func (s *System) memory() int {
	for line := range strings.Lines(s.text("proc/meminfo")) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemTotal:" {
			kib, _ := strconv.Atoi(f[1])
			return kib / 1024
		}
	}
	return 0
}

// disks lists the machine's disks, ordered by name.
func (s *System) disks() (disks []map[string]any) {
	dir, err := s.root.Dir("sys/block")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Names()
	slices.Sort(names)
	for _, name := range names {
		at := "sys/block/" + name
		if !s.exists(at + "/device") { // one of the kernel's own, such as a loop device
			continue
		}
		sectors, _ := strconv.ParseUint(s.line(at+"/size"), 10, 64)
		disk := map[string]any{
			"name": name, "model": s.line(at + "/device/model"), "vendor": s.line(at + "/device/vendor"),
			"serial": s.line(at + "/device/serial"), "size": sectors * 512 / 1_000_000_000,
		}
		if driver, err := os.Readlink(path.Join(s.root.Name(), at, "device/driver")); err == nil {
			disk["driver"] = path.Base(driver)
		}
		disks = append(disks, disk)
	}
	return disks
}

// networkCards lists those that have an address of their own.
func (s *System) networkCards() (cards []map[string]any) {
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		if len(i.HardwareAddr) == 0 {
			continue
		}
		card := map[string]any{"name": i.Name, "macaddress": i.HardwareAddr.String()}
		if driver, err := os.Readlink(path.Join("/sys/class/net", i.Name, "device/driver")); err == nil {
			card["driver"] = path.Base(driver)
		}
		cards = append(cards, card)
	}
	return cards
}
