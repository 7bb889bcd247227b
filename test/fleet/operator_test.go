//go:build fleet

package fleet

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const helperImage = "registry.example/kairos-operator:test"

// manager is the operator's program as a Deployment runs it: with the rights of its service account, and started again
// when it ends.
type manager struct {
	t      *testing.T
	args   []string
	config string // kubeconfig file
	log    *os.File

	mu     sync.Mutex
	cmd    *exec.Cmd
	over   bool
	starts int
	ended  sync.WaitGroup
}

// startManager starts an operator that ends with the test.
func startManager(t *testing.T, args ...string) *manager {
	t.Helper()
	config, err := account(t.Context(), "kairos-operator", nil)
	must(t, err)
	k := clientcmdapi.NewConfig()
	k.Clusters["c"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	k.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: config.BearerToken}
	k.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	k.CurrentContext = "x"
	m := &manager{t: t, config: filepath.Join(t.TempDir(), "kubeconfig"),
		args: append([]string{"manager", "--metrics=0", "--probes=0", "--image=" + helperImage}, args...)}
	must(t, clientcmd.WriteToFile(*k, m.config))
	m.log, err = os.Create(filepath.Join(t.TempDir(), "operator.log"))
	must(t, err)
	m.start()
	t.Cleanup(func() {
		m.mu.Lock()
		m.over = true
		m.mu.Unlock()
		m.kill()
		m.ended.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(m.log.Name())
			t.Logf("operator, started %d times:\n%s", m.starts, text[max(0, len(text)-4<<10):])
		}
		_ = m.log.Close()
	})
	return m
}

func (m *manager) start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return
	}
	m.starts++
	fmt.Fprintf(m.log, "--- start %d\n", m.starts)
	c := exec.Command(cluster.program, m.args...)
	c.Env = append(os.Environ(), "KUBECONFIG="+m.config)
	c.Stdout, c.Stderr = m.log, m.log
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		m.t.Errorf("start the operator: %v", err)
		return
	}
	m.cmd = c
	m.ended.Go(func() {
		if err := c.Wait(); err == nil || !c.ProcessState.Exited() {
			m.start()
			return
		}
		time.Sleep(time.Second) // as a kubelet waits before it starts what has failed
		m.start()
	})
}

// kill kills the operator as a power cut does. Another one is started.
func (m *manager) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.cmd.Process.Kill() // one that has ended is what was asked for
}

func (m *manager) started() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.starts
}
