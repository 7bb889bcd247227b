package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/datasource"
	"github.com/kairos-buildkit/kairos/node/provision"
)

// cloudInitOwn are keys that cloud-init, where the image has it, takes from a volume by itself: done by both, they
// would be done twice.
var cloudInitOwn = []string{
	"users", "ssh_authorized_keys", "hostname", "fqdn", "manage_etc_hosts", "timezone", "locale", "ntp", "write_files",
	"runcmd", "bootcmd",
}

// sources is where a node's config may come from beside what it has.
type sources struct {
	dir       string // where to leave it for [NodeConfig]; empty: it has one already
	cloudInit bool   // the image's cloud-init asks volumes and metadata by its own rules
}

// sourcesOf says where to look: on a live medium, whose configs stay in memory; and on an installed node that nobody
// has given a config yet, such as a raw disk on its first boot, where they stay on OEM. Others are not asked: whoever
// can attach a volume to a configured node is not its owner by that.
func sourcesOf(root string, b layout.Boot) sources {
	s := sources{cloudInit: HasCloudInit(root)}
	switch b.Role {
	case layout.RoleLive:
		s.dir = filepath.Join(root, layout.RunDatasource)
	case layout.RoleSystem:
		oem := filepath.Join(root, layout.MountOEM)
		if len(readConfigDir(oem))+len(readConfigDir(filepath.Join(root, layout.PersistentConfigDir))) == 0 {
			s.dir = oem
		}
	default:
		s.cloudInit = false
	}
	return s
}

// attached leaves the configs of attached volumes where [NodeConfig] reads them. What cannot be used is in problems.
// Any says that there is a volume.
func (s sources) attached(root string) (problems []*config.File, any bool) {
	if s.dir == "" && !s.cloudInit {
		return nil, false
	}
	found, err := datasource.Find(root)
	if err != nil {
		return []*config.File{config.Unreadable("volumes", err)}, false
	}
	if s.dir == "" {
		return nil, len(found) > 0
	}
	return s.keep(found), len(found) > 0
}

func (s sources) keep(found []datasource.Config) (problems []*config.File) {
	for i, c := range found {
		err := c.Err
		if err == nil && s.cloudInit {
			c.Data, err = withoutCloudInit(c)
		}
		if err == nil && len(c.Data) > 0 {
			err = keep(filepath.Join(s.dir, attachedName(i, c.Name)), c.Data)
		}
		if err != nil {
			problems = append(problems, config.Unreadable(c.Name, err))
		}
	}
	return problems
}

// metadataTimeout bounds how long the metadata service is asked: the next start asks again.
const metadataTimeout = 5 * time.Minute

// metadata asks the cloud's metadata service until it answers, where ApplyConfig has found nothing else, and has what
// it says take effect in the running system: accounts, files and names at once, then what units start.
func metadata(ctx context.Context, root string, ask func(context.Context) ([]datasource.Config, error)) error {
	marker := filepath.Join(root, layout.RunMetadata)
	if _, err := os.Stat(marker); err != nil {
		return nil
	}
	boot, err := ReadBoot(root)
	if err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	var found []datasource.Config
	for wait := 2 * time.Second; ; wait = min(2*wait, time.Minute) {
		if found, err = ask(limit); err == nil {
			break
		}
		select {
		case <-limit.Done():
			return err
		case <-time.After(wait):
		}
	}
	problems := sourcesOf(root, boot).keep(found)
	if err := os.Remove(marker); err != nil {
		return err
	}
	if len(found) == 0 {
		return nil
	}
	err = applyConfig(root, boot, problems, func(*provision.System) {})
	return errors.Join(err, startNew(ctx, root))
}

// startNew starts what a config that came late has units for.
func startNew(ctx context.Context, root string) error {
	if root != "/" {
		return nil // nothing of it runs
	}
	// An image's own runcmd, if it has one, runs a second time on this first boot: the new script has both.
	if _, err := os.Stat("/run/systemd/private"); err == nil {
		var errs []error
		for _, args := range [][]string{
			{"daemon-reload"},
			{"--no-block", "start", "multi-user.target"}, {"--no-block", "restart", "kairos-runcmd.service"},
		} {
			if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
				errs = append(errs, fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, out))
			}
		}
		return errors.Join(errs...)
	}
	err := RunStage(ctx, root, "boot")
	if _, serr := os.Stat("/" + layout.RunCmd); serr == nil {
		if out, cerr := exec.CommandContext(ctx, "sh", "/"+layout.RunCmd).CombinedOutput(); cerr != nil {
			err = errors.Join(err, fmt.Errorf("runcmd: %w: %s", cerr, out))
		}
	}
	return err
}

var unsafe = regexp.MustCompile(`[^A-Za-z0-9]+`)

// attachedName is a file's name that says where it is from, before a person's own on OEM.
func attachedName(i int, from string) string {
	return fmt.Sprintf("%02d_%s.yaml", 50+i, strings.Trim(unsafe.ReplaceAllString(from, "-"), "-"))
}

// withoutCloudInit is what of a config cloud-init does not know. Of one with mistakes nothing is: cloud-init says what
// it thinks of it, and a half is nobody's wish.
func withoutCloudInit(c datasource.Config) ([]byte, error) {
	merged := config.Merge(config.Parse(c.Name, c.Data))
	if err := merged.Report().Err(); err != nil {
		return nil, err
	}
	v := merged.Value()
	for _, name := range cloudInitOwn {
		v = v.Without(name)
	}
	if len(v.Keys()) == 0 {
		return nil, nil
	}
	return v.YAML()
}

// keep writes a config for root alone.
func keep(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return (&durable.FS{}).WriteFile(name, data, 0o600)
}
