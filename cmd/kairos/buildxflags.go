package main

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/appdefaults"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/spf13/pflag"
	"github.com/tonistiigi/go-csvvalue"
)

// The flags of `docker buildx build` that are more than a word: what they mean to buildx, they mean here. What this
// builder does not do is refused with what does.

// refused are flags of buildx that say what to do instead.
var refused = map[string]string{
	"builder": "kairos build is a builder of its own: for buildx, use the image of `kairos builder` (docs/outputs.md)",
	"call":    "checks and outlines of a Dockerfile are buildx's: `docker buildx build --call`",
	"check":   "checks of a Dockerfile are buildx's: `docker buildx build --check`",
	"print":   "checks and outlines of a Dockerfile are buildx's: `docker buildx build --call`",
	"policy":  "policies for sources are buildx's: `docker buildx build --policy`",
	"squash": "BuildKit has no --squash: copy from a stage in a last one, COPY --from=build / /; " +
		"nodes share layers, so that one large one costs each upgrade more",
	"isolation":    "steps are isolated by runc, and by nothing else",
	"security-opt": "a step asks for it by RUN --security=insecure, the build allows it by --allow security.insecure",
}

// refusal is a flag that is refused when somebody sets it.
type refusal struct{ why string }

func (r refusal) String() string   { return "" }
func (r refusal) Type() string     { return "string" }
func (r refusal) Set(string) error { return fmt.Errorf("%s", r.why) }

// addRefused makes the flags known that are refused, and those of old versions of docker that ask for what is so
// anyway.
func addRefused(f *pflag.FlagSet) {
	for name, why := range refused {
		f.Var(refusal{why}, name, "")
		f.Lookup(name).Hidden = true
	}
	for _, name := range []string{"check", "squash"} {
		f.Lookup(name).NoOptDefVal = "true"
	}
	for _, name := range []string{"compress", "rm", "force-rm"} {
		f.Bool(name, false, "")
		f.Lookup(name).Hidden = true
	}
}

// addLimits makes the limits of --resource known as docker's older flags.
func (o *buildOptions) addLimits(f *pflag.FlagSet) {
	short := map[string]string{"memory": "m", "cpu-shares": "c"}
	for name := range resourceAttrs {
		f.VarP(limit{name, &o.resources}, name, short[name], "")
		f.Lookup(name).Hidden = true
	}
}

// limit is a flag that stands for --resource NAME=VALUE.
type limit struct {
	name string
	all  *[]string
}

func (l limit) String() string     { return "" }
func (l limit) Type() string       { return "string" }
func (l limit) Set(v string) error { *l.all = append(*l.all, l.name+"="+v); return nil }

// resourceAttrs are the limits of --resource, and what the Dockerfile frontend calls them.
var resourceAttrs = map[string]string{
	"memory": "memory", "memory-swap": "memswap", "cpu-shares": "cpushares", "cpu-period": "cpuperiod",
	"cpu-quota": "cpuquota", "cpuset-cpus": "cpusetcpus", "cpuset-mems": "cpusetmems",
}

// setResources sets what RUN steps may use.
func (o *buildOptions) setResources(attrs map[string]string) error {
	if o.shmSize != "" {
		n, err := units.RAMInBytes(o.shmSize)
		if err != nil || n <= 0 {
			return usagef("--shm-size %s: want a size such as 64m or 2g", o.shmSize)
		}
		attrs["shm-size"] = strconv.FormatInt(n, 10)
	}
	var limits []string
	for _, s := range o.ulimits {
		u, err := units.ParseUlimit(s)
		if err != nil {
			return usagef("--ulimit %s: %w: want NAME=SOFT[:HARD], as nofile=1024:2048", s, err)
		}
		limits = append(limits, u.String())
	}
	if len(limits) > 0 {
		attrs["ulimit"] = strings.Join(limits, ",")
	}
	if o.cgroupParent != "" {
		attrs["cgroup-parent"] = o.cgroupParent
	}
	for _, s := range o.resources {
		name, value, _ := strings.Cut(s, "=")
		attr, ok := resourceAttrs[strings.TrimSpace(name)]
		value = strings.TrimSpace(value)
		if !ok || value == "" {
			return usagef("--resource %s: want memory=2g, memory-swap=, cpu-shares=, cpu-period=, cpu-quota=, "+
				"cpuset-cpus= or cpuset-mems=", s)
		}
		if strings.HasPrefix(attr, "mem") && value != "-1" {
			n, err := units.RAMInBytes(value)
			if err != nil || n <= 0 {
				return usagef("--resource %s: want a size such as 512m or 2g", s)
			}
			value = strconv.FormatInt(n, 10)
		} else if _, err := strconv.ParseInt(value, 10, 64); err != nil && !strings.HasPrefix(attr, "cpuset") {
			return usagef("--resource %s: want a number", s)
		}
		attrs[attr] = value
	}
	return nil
}

// hostGateway is this machine's address in RUN steps: they share its network, unless a CNI configuration says
// otherwise.
func hostGateway() (string, error) {
	if _, err := os.Stat(appdefaults.DefaultCNIConfigPath); err == nil {
		return "", fmt.Errorf("which address this machine has in %s's network is not known: name the address",
			appdefaults.DefaultCNIConfigPath)
	}
	return "127.0.0.1", nil
}

// extraHosts reads --add-host as buildx does: NAME:ADDRESS or NAME=ADDRESS, several addresses with commas between,
// each of which may stand in brackets, or host-gateway.
func extraHosts(flags []string) (string, error) {
	var hosts []string
	for _, h := range flags {
		name, list, ok := strings.Cut(h, "=")
		if !ok {
			name, list, ok = strings.Cut(h, ":")
		}
		if !ok || name == "" || strings.ContainsAny(name, ",\"") {
			return "", usagef("--add-host %s: want NAME:ADDRESS, as host:10.0.0.1 or host:[fd00::1]", h)
		}
		for address := range strings.SplitSeq(list, ",") {
			if address == "host-gateway" {
				var err error
				if address, err = hostGateway(); err != nil {
					return "", usagef("--add-host %s: %w", h, err)
				}
			}
			if len(address) >= 2 && address[0] == '[' && address[len(address)-1] == ']' {
				address = address[1 : len(address)-1]
			}
			if ip, err := netip.ParseAddr(address); err != nil || ip.Zone() != "" {
				return "", usagef("--add-host %s: want NAME:ADDRESS, as host:10.0.0.1 or host:[fd00::1]", h)
			}
			hosts = append(hosts, name+"="+address)
		}
	}
	return strings.Join(hosts, ","), nil
}

// setAttestations reads --attest, --provenance and --sbom, which are short for it; the last of a type counts.
func (o *buildOptions) setAttestations(attrs map[string]string) error {
	all := slices.Clone(o.attests)
	for _, short := range []struct{ typ, value string }{{"provenance", o.provenance}, {"sbom", o.sbom}} {
		if b, err := strconv.ParseBool(short.value); err == nil {
			all = append(all, fmt.Sprintf("type=%s,disabled=%t", short.typ, !b))
		} else if short.value != "" {
			all = append(all, "type="+short.typ+","+short.value)
		}
	}
	for _, s := range all {
		fields, err := csvvalue.Fields(s, nil)
		if err != nil {
			return usagef("--attest %s: %w", s, err)
		}
		typ, disabled, rest := "", false, []string{}
		for _, f := range fields {
			key, value, ok := strings.Cut(f, "=")
			switch {
			case !ok:
				return usagef("--attest %s: %q: want key=value", s, f)
			case key == "type":
				typ = value
			case key == "disabled":
				if disabled, err = strconv.ParseBool(value); err != nil {
					return usagef("--attest %s: disabled=%s: want true or false", s, value)
				}
			case strings.ContainsAny(f, ",\""):
				rest = append(rest, `"`+strings.ReplaceAll(f, `"`, `""`)+`"`)
			default:
				rest = append(rest, f)
			}
		}
		if typ != "provenance" && typ != "sbom" {
			return usagef("--attest %s: want type=provenance or type=sbom", s)
		}
		delete(attrs, "attest:"+typ)
		if !disabled {
			attrs["attest:"+typ] = strings.Join(rest, ",")
		}
	}
	return nil
}

var annotationKind = regexp.MustCompile(`^(index|manifest)(-descriptor)?(\[[A-Za-z0-9_/-]+\])?$`)

// annotations reads --annotation, [KIND[PLATFORM],…:]KEY=VALUE, as attributes of an image's output.
func annotations(flags []string) (map[string]string, error) {
	attrs := map[string]string{}
	for _, s := range flags {
		name, value, ok := strings.Cut(s, "=")
		kinds, key, typed := strings.Cut(name, ":")
		if !typed {
			kinds, key = "", name
		}
		if !ok || key == "" {
			return nil, usagef("--annotation %s: want KEY=VALUE", s)
		}
		if !typed {
			attrs["annotation."+key] = value
			continue
		}
		for kind := range strings.SplitSeq(kinds, ",") {
			if m := annotationKind.FindStringSubmatch(kind); m == nil || m[1] == "index" && m[3] != "" {
				return nil, usagef("--annotation %s: %q: want index, index-descriptor, manifest or "+
					"manifest-descriptor, the last two with a platform as in manifest[linux/amd64]", s, kind)
			}
			attrs["annotation-"+kind+"."+key] = value
		}
	}
	return attrs, nil
}

// contextName is what the Dockerfile calls a context: an image's name is one in each of its forms.
func contextName(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(reference.FamiliarString(named), ":latest"), nil
}

// checkWords refuses what is wrong with flags that are words of a list.
func (o *buildOptions) checkWords() error {
	modes := []string{"auto", "plain", "tty", "quiet", "rawjson"}
	if o.progress != "" && !slices.Contains(modes, o.progress) {
		return usagef("--progress %s: use %s", o.progress, strings.Join(modes, ", "))
	}
	if o.noCache && len(o.noCacheFilter) > 0 {
		return usagef("--no-cache runs every step again: --no-cache-filter is for some stages only")
	}
	for _, a := range o.allow {
		if _, _, err := entitlements.Parse(a); err != nil {
			return usagef("--allow %s: use network.host, security.insecure or device", a)
		}
	}
	for _, t := range o.tags {
		if _, err := reference.ParseNormalizedNamed(t); err != nil {
			return usagef("--tag %s: %w", t, err)
		}
	}
	for i, list := range o.platforms {
		var names []string
		for name := range strings.SplitSeq(list, ",") {
			if name == "local" {
				name = platforms.Format(platforms.DefaultSpec())
			}
			if _, err := platforms.Parse(name); err != nil {
				return usagef("--platform %s: want one such as linux/arm64", name)
			}
			names = append(names, name)
		}
		o.platforms[i] = strings.Join(names, ",")
	}
	return nil
}

// checkCaches refuses kinds of caches that this builder does not have, and what is missing of the others.
func checkCaches(flag string, caches []client.CacheOptionsEntry, kinds map[string]string) error {
	for _, c := range caches {
		need, ok := kinds[c.Type]
		if !ok {
			return usagef("%s type=%s: this builder has caches of the types local, registry, and inline to write: "+
				"an inline one is read as type=registry", flag, c.Type)
		}
		if need != "" && c.Attrs[need] == "" {
			return usagef("%s type=%s: where? Add %s=", flag, c.Type, need)
		}
	}
	return nil
}
