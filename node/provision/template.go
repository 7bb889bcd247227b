package provision

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
	"golang.org/x/sys/unix"
)

// templated renders a template with sprig's functions and the values that yip has for its templates: .MachineID,
// .UUID, .Random, .ProtectedID, and what is known of the machine below .Values.
func (s *System) templated(text string) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	t, err := template.New("").Funcs(sprig.TxtFuncMap()).Parse(text)
	if err != nil {
		return "", fmt.Errorf("template: %w", err)
	}
	if s.vars == nil {
		s.vars = s.variables()
	}
	var b bytes.Buffer
	if err := t.Execute(&b, s.vars); err != nil {
		return "", fmt.Errorf("template: %w", err)
	}
	return b.String(), nil
}

// rendered is a template's text, or the text itself where it is none: a command may have braces of its own.
func (s *System) rendered(text string) string {
	if out, err := s.templated(text); err == nil {
		return out
	}
	return text
}

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

	vendor := map[string]string{}
	for line := range strings.Lines(s.text("etc/os-release") + "\n" + s.text("usr/lib/os-release")) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		if _, ok := vendor[k]; !ok {
			vendor[k] = strings.Trim(v, `"'`)
		}
	}
	dmi := func(name string) string { return s.line("sys/class/dmi/id/" + name) }
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	host, _ := os.Hostname()
	var network []map[string]any
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		if len(i.HardwareAddr) > 0 {
			network = append(network, map[string]any{"name": i.Name, "macaddress": i.HardwareAddr.String()})
		}
	}
	values := map[string]any{
		"os": map[string]any{"name": vendor["PRETTY_NAME"], "vendor": vendor["ID"], "version": vendor["VERSION_ID"],
			"release": vendor["VERSION_ID"], "architecture": runtime.GOARCH},
		"node": map[string]any{"hostname": host, "machineid": id, "timezone": s.line("etc/timezone")},
		"kernel": map[string]any{
			"release":      unix.ByteSliceToString(uts.Release[:]),
			"version":      unix.ByteSliceToString(uts.Version[:]),
			"architecture": unix.ByteSliceToString(uts.Machine[:]),
		},
		"cpu": map[string]any{"threads": runtime.NumCPU()},
		"product": map[string]any{
			"name":    dmi("product_name"),
			"vendor":  dmi("sys_vendor"),
			"version": dmi("product_version"),
			"serial":  dmi("product_serial"),
		},
		"board": map[string]any{
			"name":    dmi("board_name"),
			"vendor":  dmi("board_vendor"),
			"version": dmi("board_version"),
			"serial":  dmi("board_serial"),
		},
		"chassis": map[string]any{
			"vendor":   dmi("chassis_vendor"),
			"version":  dmi("chassis_version"),
			"serial":   dmi("chassis_serial"),
			"assettag": dmi("chassis_asset_tag"),
		},
		"bios": map[string]any{
			"vendor":  dmi("bios_vendor"),
			"version": dmi("bios_version"),
			"date":    dmi("bios_date"),
		},
		"network": network,
		"Random":  random, "ProtectedID": protected,
	}
	return map[string]any{"MachineID": id, "UUID": uuid, "Random": random, "ProtectedID": protected, "Values": values}
}

// text is a small file's content, "" where it cannot be read.
func (s *System) text(name string) string {
	b, err := s.root.ReadFile(name, 64<<10)
	if err != nil {
		return ""
	}
	return string(b)
}

func (s *System) line(name string) string { return strings.TrimSpace(s.text(name)) }
