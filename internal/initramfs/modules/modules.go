// Package modules loads the initrd's kernel modules, each once, with what they depend on.
package modules

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/initrd/kmod"
	"github.com/kairos-buildkit/kairos/internal/initramfs/console"
	"github.com/kairos-buildkit/kairos/layout"
)

// Loader loads kernel modules. It serves several goroutines.
type Loader struct {
	index   kmod.Index
	deps    map[string][]string
	params  map[string]string
	blocked map[string]bool
	log     *console.Log

	mu     sync.Mutex
	loaded map[string]func() error
}

// Open reads the initrd's list of modules, and their parameters from the kernel's command line.
func Open(cmdline layout.Cmdline, log *console.Log) (*Loader, error) {
	text, err := os.ReadFile("/" + kmod.IndexPath)
	if err != nil {
		return nil, fmt.Errorf("read the initrd's list of modules: %w", err)
	}
	index, err := kmod.Parse(text)
	if err != nil {
		return nil, err
	}
	m := &Loader{index: index, deps: map[string][]string{}, log: log, loaded: map[string]func() error{}}
	m.params, m.blocked = options(cmdline)
	for _, mod := range index.Modules {
		m.deps[mod.Name] = mod.Deps
	}
	return m, nil
}

// options reads "module.parameter=value" and modprobe.blacklist= as modprobe does.
func options(cmdline layout.Cmdline) (params map[string]string, blocked map[string]bool) {
	params, blocked = map[string]string{}, map[string]bool{}
	for _, word := range cmdline {
		name, param, ok := strings.Cut(strings.SplitN(word, "=", 2)[0], ".")
		switch {
		case !ok || name == "" || param == "":
		case name == "modprobe" && param == "blacklist":
			_, list, _ := strings.Cut(word, "=")
			for _, b := range strings.Split(list, ",") {
				blocked[kmod.Name(b)] = true
			}
		default:
			name = kmod.Name(name)
			params[name] = strings.TrimSpace(params[name] + " " + word[strings.IndexByte(word, '.')+1:])
		}
	}
	return params, blocked
}

// LoadAll loads modules by name, side by side.
func (m *Loader) LoadAll(names ...string) error {
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { errs[i] = m.Load(name) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Load loads a module with what it depends on. A name that the initrd does not have is
// built into the kernel, or the caller will see that it is missing when it uses it.
func (m *Loader) Load(name string) error {
	deps, ok := m.deps[kmod.Name(name)]
	if !ok {
		return nil
	}
	for _, dep := range deps {
		// A soft dependency may fail, such as the driver of an instruction that the processor
		// lacks. Without a hard one the module itself will not load.
		if err := m.once(dep)(); err != nil {
			m.log.Detail("%v", err)
		}
	}
	return m.once(kmod.Name(name))()
}

// Match loads the drivers of a device.
func (m *Loader) Match(modalias string) {
	for _, name := range m.index.Match(modalias) {
		if m.blocked[name] {
			continue
		}
		if err := m.Load(name); err != nil {
			m.log.Info("%v", err)
		}
	}
}

func (m *Loader) once(name string) func() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.loaded[name]
	if f == nil {
		f = sync.OnceValue(func() error { return m.insert(name) })
		m.loaded[name] = f
	}
	return f
}

func (m *Loader) insert(name string) error {
	f, err := os.Open("/" + kmod.Path(name))
	if err != nil {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), m.params[name], 0)
	switch {
	case err == nil:
		m.log.Detail("loaded module %s", name)
	case errors.Is(err, unix.EEXIST):
	case errors.Is(err, unix.ENODEV):
		m.log.Detail("module %s: its hardware is not there", name)
	default:
		return fmt.Errorf("load module %s: %w", name, err)
	}
	return nil
}
