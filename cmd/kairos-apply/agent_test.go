package main

import (
	"slices"
	"strings"
	"testing"
)

func TestAgentArguments(t *testing.T) {
	for line, want := range map[string]string{
		"/usr/bin/kairos-apply validate x": "validate x",
		"kairos-apply":                     "",
		"kairos-agent":                     "",
		"kairos-agent --debug":             "",
		"kairos-agent upgrade":             "upgrade",
		"kairos-agent upgrade --source oci:a/b:v2 --recovery": "upgrade oci:a/b:v2 --recovery",
		"/usr/bin/kairos-agent upgrade --source=oci:a/b:v2":   "upgrade oci:a/b:v2",
		"kairos-agent --debug upgrade --force --image a/b:v2": "upgrade a/b:v2",
		"kairos-agent reset --unattended --reset-oem":         "reset --yes --oem",
		"kairos-agent state":                               "status",
		"kairos-agent state get":                           "status -o json",
		"kairos-agent state get boot":                      "status get boot",
		"kairos-agent uuid":                                "status get uuid",
		"kairos-agent validate file.yaml":                  "config check file.yaml",
		"kairos-agent print-schema":                        "config schema",
		"kairos-agent run-stage boot":                      "run-stage boot",
		"kairos-agent run-stage -a --strict boot":          "run-stage --analyze boot",
		"kairos-agent config":                              "config",
		"kairos-agent config get install.device":           "config get install.device",
		"kairos-agent install --reboot":                    "install --reboot",
		"kairos-agent manual-install --device auto c.yaml": "install --yes --device auto --config c.yaml",
		"kairos-agent manual-install --reboot c.yaml":      "install --yes --reboot --config c.yaml",
		"kairos-agent logs -o /tmp/l.tar.gz":               "logs --file /tmp/l.tar.gz",
		"kairos-agent logs --output=l.tar.gz":              "logs --file=l.tar.gz",
		"kairos-agent version --long":                      "--version",
		"kairos-agent bootentry":                           "boot",
		"kairos-agent bootentry --select recovery":         "boot recovery",
		"kairos-agent bootentry --select=fallback":         "boot passive",
		"kairos-agent bootentry -s active":                 "boot active",
		"kairos-agent c g hostname":                        "config get hostname",
		"kairos-agent state g boot":                        "status get boot",
		"kairos-agent u":                                   "status get uuid",
		"kairos-agent m --source oci:a/b:v2 c.yaml":        "install --yes --source oci:a/b:v2 --config c.yaml",
		"kairos-agent i --source oci:a/b:v2":               "install --source oci:a/b:v2",
	} {
		if got := strings.Join(arguments(strings.Fields(line)), " "); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	for line, want := range map[string][]string{
		"webui":                     {"webui", "kairos-apply install"},
		"upgrade list-releases":     {"upgrade list-releases", "registry"},
		"upgrade --boot-entry=x":    {"upgrade --boot-entry", "an entry of its own"},
		"w":                         {"webui", "kairos-apply install"},
		"print-schema --version v1": {"print-schema --version", "kairos-apply --version"},
		"run-stage --cloud-init-paths /x boot": {
			"run-stage --cloud-init-paths", "cloud-init-paths into the cloud-config",
		},
	} {
		got := arguments(append([]string{"kairos-agent"}, strings.Fields(line)...))
		if len(got) != 3 || got[0] != lacks || got[1] != want[0] || !strings.Contains(got[2], want[1]) {
			t.Errorf("%s: %q", line, got)
		}
	}
}

// What another word stands for has to be there.
func TestAgentCommandsAreThere(t *testing.T) {
	root := (&app{}).root()
	for _, c := range agentCommands {
		words := strings.Fields(c.ours)
		for len(words) > 0 && strings.HasPrefix(words[len(words)-1], "-") || slices.Contains(words, "uuid") {
			words = words[:len(words)-1]
		}
		if found, rest, err := root.Find(words); err != nil || len(rest) > 0 {
			t.Errorf("%s: %q is no command: %v, %v, %q", c.theirs, c.ours, found.Name(), err, rest)
		}
	}
}
