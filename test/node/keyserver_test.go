//go:build vm

package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// keyServer has an account's public keys, on this machine's loopback address, as a company's own server has them.
type keyServer struct {
	url       string // as the machines see it
	authority string // its certificate, which the machines are to trust, as PEM
	key       string // the file of the account's private key
	public    string // what the server says of it
}

// keyAccount is the server's only account.
const keyAccount = "octo"

// startKeyServer starts the server, once: it ends with the tests.
var startKeyServer = sync.OnceValues(func() (keyServer, error) {
	s := keyServer{}
	var err error
	if s.key, err = sshKeyNamed("fetched-key"); err != nil {
		return s, err
	}
	public, err := os.ReadFile(s.key + ".pub")
	if err != nil {
		return s, err
	}
	s.public = strings.TrimSpace(string(public))
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return s, err
	}
	// It is long valid: a machine may begin in 1970.
	certificate := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(10, 0, 0),
		IPAddresses: []net.IP{net.ParseIP("10.0.2.2")}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, certificate, certificate, own.Public(), own)
	if err != nil {
		return s, err
	}
	s.authority = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: own}},
	})
	if err != nil {
		return s, err
	}
	s.url = fmt.Sprintf("https://10.0.2.2:%d", l.Addr().(*net.TCPAddr).Port)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /"+keyAccount+".keys", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, s.public)
	})
	go (&http.Server{Handler: mux, ErrorLog: discardLogger(), ReadHeaderTimeout: time.Minute}).Serve(l)
	return s, nil
})

// config is what a cloud-config says to have the server in place of github.com: items of write_files.
func (s keyServer) config() string {
	return `  - path: /etc/kairos/environment
    content: "KAIROS_GITHUB_URL=` + s.url + `\n"
  - path: /etc/ssl/certs/test-authority.pem
    content: |
      ` + strings.ReplaceAll(strings.TrimSpace(s.authority), "\n", "\n      ") + "\n"
}

// fetchedKey waits for the server's key in the user's file: it comes when the network is up.
func (m *machine) fetchedKey() {
	m.t.Helper()
	s, err := startKeyServer()
	if err != nil {
		m.t.Fatal(err)
	}
	out, code := m.RunWithin(3*time.Minute, "until grep -qsF '"+s.public+
		"' ~kairos/.ssh/authorized_keys; do sleep 1; done; stat -c '%U %a' ~kairos/.ssh/authorized_keys")
	if code != 0 || strings.TrimSpace(out) != "kairos 600" {
		m.t.Fatalf("the key of github:%s: %q, %s", keyAccount, out, m.Check("kairos-apply status"))
	}
}

// byFetchedKey logs in with that key, and uses sudo.
func (m *machine) byFetchedKey() {
	m.t.Helper()
	m.fetchedKey()
	s, err := startKeyServer()
	if err != nil {
		m.t.Fatal(err)
	}
	if out, err := m.sshAs("kairos", s.key, "id -un; sudo -n id -u"); err != nil || out != "kairos\n0\n" {
		m.t.Errorf("ssh by the fetched key: %q, %v", out, err)
	}
}

// network gives the machine an address where its image has nothing that does it.
func (m *machine) network() {
	m.t.Helper()
	m.Check("dev=$(ls /sys/class/net | grep -vx lo) && ip link set $dev up && ip address add 10.0.2.15/24 dev $dev " +
		"&& ip route add default via 10.0.2.2")
}
