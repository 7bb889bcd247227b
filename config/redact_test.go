package config

import (
	"strings"
	"testing"
)

func TestWithoutSecrets(t *testing.T) {
	c := Merge(Parse("c.yaml", []byte(`
hostname: n1
users: [{name: a, passwd: SECRET, groups: [admin]}, b]
write_files: [{path: /etc/a, content: SECRET, permissions: 0600}]
runcmd: [echo SECRET, [echo, SECRET]]
env: {TOKEN: SECRET}
install: {env: [A=SECRET], device: auto}
k3s: {enabled: true, args: [--token SECRET], env: {K3S_TOKEN: SECRET}}
chpasswd: {users: [{name: a, password: SECRET}]}
wireguard: SECRET
stages:
  boot:
    - name: step
      if: test SECRET
      commands: [SECRET]
      files: [{path: /b, content: SECRET}]
      downloads: [{url: "https://a:SECRET@example.org/", path: /c}]
      environment: {A: SECRET}
      users: {c: {passwd: SECRET}}
      systemctl: {overrides: [{service: a, content: SECRET}], enable: [a]}
`)))
	if err := c.Report().Err(); err != nil {
		t.Fatal(err)
	}
	b, err := c.WithoutSecrets().YAML()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "SECRET") {
		t.Errorf("%s", b)
	}
	for _, want := range []string{
		"hostname: n1", "name: b", "path: /etc/a", "device: auto", "K3S_TOKEN: '(removed: 6 characters)'",
		"name: step", "runcmd: '(removed: 2 items)'", "- admin",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in\n%s", want, b)
		}
	}
	if v, err := c.Value().YAML(); err != nil || !strings.Contains(string(v), "SECRET") {
		t.Error("the config itself was changed")
	}
}

func TestKept(t *testing.T) {
	c := Merge(Parse("c.yaml", []byte("hostname: n1\nenv: {TOKEN: SECRET}\nusers:\n"+
		"- {name: a, passwd: SECRET, hashed_passwd: SECRET, ssh_authorized_keys: [key]}\n"+
		"- {name: b, passwd: SECRET}\n- c\n")))
	b, err := c.Kept(map[string]string{"a": "$6$hash"}).YAML()
	if err != nil {
		t.Fatal(err)
	}
	again := Merge(Parse("kept.yaml", b))
	u := again.Users()
	if strings.Contains(string(b), "SECRET") || again.Hostname() != "n1" || len(u) != 3 || u[0].Passwd != "$6$hash" ||
		len(u[0].Keys) != 1 || u[1].Passwd != "" || u[2].Name != "c" {
		t.Errorf("%+v\n%s", u, b)
	}
}
