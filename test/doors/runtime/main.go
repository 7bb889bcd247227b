// Command runtime is runc for machines that do not have all capabilities themselves, as
// virtual machines of CI often do not: a privileged container then gets those that there are, where runc
// alone would refuse to start it.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// names of capabilities that are known to be missing somewhere, by number (capability.h).
var names = map[uint]string{24: "CAP_SYS_RESOURCE", 16: "CAP_SYS_MODULE", 25: "CAP_SYS_TIME", 17: "CAP_SYS_RAWIO"}

func main() {
	for flag, file := range map[string]string{"--bundle": "config.json", "--process": ""} {
		i := slices.Index(os.Args, flag)
		if i < 0 || i+1 >= len(os.Args) {
			continue
		}
		if err := limit(filepath.Join(os.Args[i+1], file)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	runc, err := exec.LookPath("runc")
	if err == nil {
		err = syscall.Exec(runc, append([]string{"runc"}, os.Args[1:]...), os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// limit takes the capabilities that this process lacks out of a container's configuration.
func limit(file string) error {
	missing, err := missing()
	if err != nil || len(missing) == 0 {
		return err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var config map[string]any
	if err := json.Unmarshal(b, &config); err != nil {
		return err
	}
	process, ok := config["process"].(map[string]any)
	if !ok {
		process = config // the file is a process, for exec
	}
	sets, _ := process["capabilities"].(map[string]any)
	for set, v := range sets {
		caps, _ := v.([]any)
		sets[set] = slices.DeleteFunc(caps, func(c any) bool { return slices.Contains(missing, fmt.Sprint(c)) })
	}
	if b, err = json.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

func missing() ([]string, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		set, ok := strings.CutPrefix(line, "CapBnd:")
		if !ok {
			continue
		}
		bits, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
		if err != nil {
			return nil, err
		}
		for bit, name := range names {
			if bits&(1<<bit) == 0 {
				out = append(out, name)
			}
		}
	}
	return out, nil
}
