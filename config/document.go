package config

import (
	"fmt"
	"slices"
	"strings"
)

// Markdown returns the schema as the table of docs/configuration.md.
func Markdown() []byte {
	var b strings.Builder
	b.WriteString(documentHead)
	var later []*Key
	table(&b, "Keys at the top", "", root.Keys, func(k *Key) bool {
		if nested(k) != nil && k.Status == Applies {
			later = append(later, k)
		}
		return k.Status != CloudInit
	})
	for _, k := range later {
		heading(&b, k)
	}
	b.WriteString(
		"\n## Keys that cloud-init reads\n\nAn image that has cloud-init gets these as they are. " +
			"In others they are ignored, and the last column says what to do instead.\n\n",
	)
	b.WriteString("| key | instead |\n| --- | --- |\n")
	for _, k := range root.Keys {
		if k.Status == CloudInit {
			fmt.Fprintf(&b, "| %s | %s |\n", code(k), cell(strings.TrimPrefix(k.Why, cloudInitWhy)))
		}
	}
	return []byte(b.String())
}

const documentHead = `# Configuration

<!-- Generated from the schema of package config: go generate ./config -->

A node is configured by a cloud-config of the [Kairos](https://kairos.io) project: the keys below, those of
[cloud-init](https://cloud-init.io), and the stages of [yip](https://github.com/mudler/yip). It is put on a medium by
` + "`kairos build`" + ` or ` + "`kairos export`" + ` with ` + "`cloud-config=FILE`" + `, and kept on a node in /oem.

    kairos config check FILE          # each key: applied, ignored, or an error, with its line and what to do
    kairos-apply config check         # the same of the running node
    kairos-apply config schema        # for editors: JSON Schema
    kairos-apply config show          # all files, merged
    kairos-apply config get install.device

**Where it comes from.** The image's /system/oem, the medium's own config, attached volumes (labelled cidata,
with user-data; or config-2, with openstack/latest/user_data), ` + "`kairos.config_url=`" + `, and
/usr/local/cloud-config and /oem of a node; all that are there count, the later ones more. A raw disk that was
written without a config asks attached volumes at its first start, and without them its cloud's metadata
service: Amazon EC2, OpenStack, Google Compute Engine, Azure, DigitalOcean, Hetzner Cloud, Vultr, Exoscale,
UpCloud, Alibaba Cloud. It keeps what they say in /oem, and asks no more. An image that has cloud-init leaves
both to it, and takes from volumes only what cloud- init does not know.

A config with an error gets onto no medium and no disk. At boot each key stands for itself: what is right takes effect.

` + "`config check`" + ` ends with 0 where every key is applied, 2 where something is wrong, 3 where something is
ignored.

**Values.** true and false are also yes, no, on, off, in any case, in quotes or not. Sizes are whole numbers of MiB.
Permissions are octal: ` + "`0644`, `\"0644\"` and `644`" + ` are the same. In the blocks below a key may be written
with dots: ` + "`partitions.oem.size: 60`" + `.
Keys that begin with ` + "`x-`" + ` or a dot are left alone, for what aliases refer to.

**Templates** are Go's, with the functions of [sprig](https://masterminds.github.io/sprig/) and ` + "`required`" + `:
in the hostname, in commands and contents of files, in what stages write. They know
` + "`.MachineID`, `.Random` and `.UUID`" + `, and below ` + "`.Values`" + ` node, os, kernel, product, board,
chassis, bios, cpu, memory, storage and network. ` + "`kairos.config_url=`" + ` may be one, too:
` + "`https://example.org/?id={{.Values.product.uuid}}`" + `.

**Keys of an account.** ` + "`github:NAME` and `gitlab:NAME`" + ` are fetched from github.com and gitlab.com, as
/NAME.keys. Another server, such as a company's own, is named by a line ` + "`KAIROS_GITHUB_URL=https://…`" + ` or
` + "`KAIROS_GITLAB_URL=https://…`" + ` in /etc/kairos/environment, which the image's Dockerfile or write_files
writes. An own authority's certificate goes into a file in /etc/ssl/certs or /etc/pki/tls/certs, in the same way.
Public keys without options are taken, when the network is up; the boot does not wait for them. They are tried again
until they are there, and ` + "`kairos-apply status`" + ` says why one is not.

**Files.** Of several files maps are merged key by key; of two scalars the later one counts; lists of maps and of
commands are joined; other lists get the values that they do not have yet; null takes away what earlier files say.
Users of the same name become one. A file has one document, at most 4 MiB, and at most 200,000 values with its aliases
written out.
`

func heading(b *strings.Builder, k *Key) {
	n := nested(k)
	path := k.Name
	for e := k; e != nil && e.Type != tObject && e.Type != tUser; e = e.Elem {
		switch e.Type {
		case tList:
			path += "[]"
		case tMap:
			path += ".NAME"
		}
	}
	table(b, "`"+k.Name+"`", k.Doc, flatten(path, n.Keys), func(*Key) bool { return true })
}

// nested returns the object that a key's value consists of, nil where there is none.
func nested(k *Key) *Key {
	for e := k; e != nil; e = e.Elem {
		if e.Type == tObject || e.Type == tUser {
			return e
		}
	}
	return nil
}

// flatten lists keys with all that is in them, each by its path.
func flatten(path string, keys []*Key) []*Key {
	var all []*Key
	for _, k := range keys {
		flat := *k
		flat.Name = path + "." + k.Name
		n := nested(k)
		if n == nil || k.Status != Applies {
			all = append(all, &flat)
			continue
		}
		if slices.Contains([]Type{tList, tMap}, k.Type) {
			flat.Name += map[Type]string{tList: "[]", tMap: ".NAME"}[k.Type]
		}
		if flat.Name != path+"."+k.Name && n.Type == tUser || k.Name == "users" {
			flat.Doc += " As `users[]` at the top."
			all = append(all, &flat)
			continue
		}
		all = append(all, flatten(flat.Name, n.Keys)...)
	}
	return all
}

func table(b *strings.Builder, title, doc string, keys []*Key, want func(*Key) bool) {
	fmt.Fprintf(b, "\n## %s\n\n", title)
	if doc != "" {
		fmt.Fprintf(b, "%s\n\n", doc)
	}
	b.WriteString("| key | value | what it does | compared with Kairos |\n| --- | --- | --- | --- |\n")
	for _, k := range keys {
		if !want(k) {
			continue
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", code(k), cell(valueName(k)), cell(k.Doc), cell(k.here()))
	}
}

// here is the column that compares.
func (k *Key) here() string {
	switch {
	case k.Status == Refuse:
		return "**not here**: " + k.Why
	case k.Status == Ignore:
		return "ignored: " + k.Why
	case k.Status == CloudInit:
		return k.Why
	case k.Differs != "":
		return "differs: " + k.Differs
	}
	return "as in Kairos"
}

func valueName(k *Key) string {
	if k.Status == Refuse || k.Status != Applies && k.Type == tAny {
		return ""
	}
	if len(k.Enum) > 0 {
		return strings.TrimPrefix(strings.Join(k.Enum, ", "), ", ")
	}
	if k.Type == tList && nested(k) == nil {
		return "list of " + map[bool]string{true: "commands", false: "strings"}[k.Elem.Type == tCommand]
	}
	return strings.TrimPrefix(typeNames[k.Type], "a ")
}

func code(k *Key) string {
	names := []string{"`" + k.Name + "`"}
	for _, a := range k.Aliases {
		names = append(names, "`"+a+"`")
	}
	return strings.Join(names, ", ")
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
