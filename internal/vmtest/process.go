package vmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
)

// process is a machine's QEMU: one after the other, for a machine that restarts gets a new one.
//
// A machine that resets within one QEMU takes minutes for its next boot in software emulation: QEMU keeps
// the code that it has translated, and each byte that is written to a page with such code, be it to clear
// the page, looks for what to throw away.
type process struct {
	machine  qemu.Machine
	restarts bool              // a reset starts a new QEMU, else it is for the machine's own to handle
	events   string            // path of a socket for QEMU's events
	port     *net.UnixListener // of the second serial port; nil: there is none
	tpm      string            // folder of a TPM's state; "": the caller has one, or there is none
	out      *io.PipeWriter
	done     chan struct{} // closed when there is no QEMU any more
	ejected  atomic.Bool   // a drive has opened

	mu     sync.Mutex
	off    bool // PowerCut was called
	cmd    *exec.Cmd
	noTPM  func() error // waits for the end of the TPM before
	in     io.Writer
	second *Console
}

// errOff says that a machine was switched off for good.
var errOff = errors.New("the machine is off")

// Write sends to the serial console of the QEMU that runs now.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	in := p.in
	p.mu.Unlock()
	if in == nil {
		return 0, errOff
	}
	return in.Write(b)
}

// run starts QEMU, and follows it until the machine is off.
func (p *process) run() error {
	q, err := p.launch()
	if err != nil {
		return err
	}
	go func() {
		defer close(p.done)
		defer p.out.Close()
		for {
			q.cmd.Wait()
			close(q.ended)
			if !<-q.reset || !p.restarts {
				return
			}
			// What the machine was thawed from is behind it.
			p.machine.Args = withoutIncoming(p.machine.Args)
			if q, err = p.launch(); err != nil {
				if !errors.Is(err, errOff) {
					fmt.Fprintf(p.out, "\nvmtest: restart the machine: %v\n", err)
				}
				return
			}
		}
	}()
	return nil
}

// emulator is one QEMU.
type emulator struct {
	cmd   *exec.Cmd
	ended chan struct{} // to be closed when it has ended
	reset <-chan bool   // says, when it has ended, whether that was for a reset
}

// launch starts one QEMU.
func (p *process) launch() (*emulator, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off {
		return nil, errOff
	}
	m := p.machine
	m.NoReboot = m.NoReboot || p.restarts
	m.Args = append(slices.Clone(m.Args), "-qmp", "unix:"+p.events+",server=on,wait=off")
	if p.tpm != "" {
		if p.noTPM != nil {
			_ = p.noTPM() // it has written its state, and ended with its QEMU
		}
		var err error
		if m.TPM, p.noTPM, err = qemu.StartTPM(context.Background(), p.tpm); err != nil {
			return nil, err
		}
		defer m.TPM.Close()
	}
	cmd, err := m.Command(context.Background())
	if err != nil {
		return nil, err
	}
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p.cmd = cmd
	reset := make(chan bool, 1)
	q := &emulator{cmd: cmd, ended: make(chan struct{}), reset: reset}
	go func() { reset <- p.follow(q.ended) }()
	if p.port != nil {
		if err := p.port.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return nil, err
		}
		c, err := p.port.Accept() // QEMU connects as it starts
		if err != nil {
			cmd.Process.Kill()
			cmd.Wait()
			return nil, err
		}
		p.second = NewConsole(c, c, io.Discard) // it ends with QEMU
	}
	return q, nil
}

// kill ends the machine as when its plug is pulled.
func (p *process) kill() {
	p.mu.Lock()
	p.off = true
	if p.cmd != nil {
		p.cmd.Process.Kill()
	}
	p.mu.Unlock()
	<-p.done
}

// follow follows a QEMU's events (QEMU QMP reference, SHUTDOWN and DEVICE_TRAY_MOVED) until it is gone, and says
// whether it went for a reset.
func (p *process) follow(ended <-chan struct{}) (reset bool) {
	var conn net.Conn
	for { // the socket comes with QEMU
		var err error
		if conn, err = net.Dial("unix", p.events); err == nil {
			break
		}
		select {
		case <-ended:
			return false
		case <-time.After(50 * time.Millisecond):
		}
	}
	defer conn.Close()
	fmt.Fprintln(conn, `{"execute":"qmp_capabilities"}`)
	for dec := json.NewDecoder(conn); ; {
		var e struct {
			Event string
			Data  struct {
				Reason string
				Open   bool `json:"tray-open"`
			}
		}
		if dec.Decode(&e) != nil {
			return reset
		}
		switch e.Event {
		case "SHUTDOWN":
			reset = strings.HasSuffix(e.Data.Reason, "-reset")
		case "DEVICE_TRAY_MOVED":
			p.ejected.Store(p.ejected.Load() || e.Data.Open)
		}
	}
}

// logsWrites says whether a drive has a log of its writes, which is one QEMU's.
func logsWrites(m qemu.Machine) bool {
	return slices.ContainsFunc(m.Drives, func(d qemu.Drive) bool { return d.WriteLog != "" })
}
