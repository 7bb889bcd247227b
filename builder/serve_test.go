package builder

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/cmd/buildkitd/config"
)

// authority makes a CA and a certificate that it signed, as files.
func authority(t *testing.T) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, typ string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	make := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			signer = own
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &own.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		return der, own
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, rootKey := make(root, root, nil)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(
			2,
		), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leafDER, leafKey := make(leaf, root, rootKey)
	keyDER, err := x509.MarshalECPrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return write(
			"ca.pem",
			"CERTIFICATE",
			rootDER,
		), write(
			"cert.pem",
			"CERTIFICATE",
			leafDER,
		), write(
			"key.pem",
			"EC PRIVATE KEY",
			keyDER,
		)
}

// A client without a certificate gets nothing over TCP once there is a CA.
func TestTLSWantsTheClientsCertificate(t *testing.T) {
	ca, cert, key := authority(t)
	listeners, err := listen(
		config.GRPCConfig{Address: []string{"tcp://127.0.0.1:0"}, TLS: config.TLSConfig{Cert: cert, Key: key, CA: ca}},
		false,
	)
	if err != nil {
		t.Fatal(err)
	}
	defer listeners[0].Close()
	go func() {
		for {
			c, err := listeners[0].Accept()
			if err != nil {
				return
			}
			go func() { _, _ = c.Write([]byte("x")); c.Close() }()
		}
	}()
	pool := x509.NewCertPool()
	b, err := os.ReadFile(ca)
	if err != nil || !pool.AppendCertsFromPEM(b) {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, certs := range map[string][]tls.Certificate{"with": {pair}, "without": nil} {
		c, err := tls.Dial("tcp", listeners[0].Addr().String(), &tls.Config{RootCAs: pool, Certificates: certs})
		if err == nil {
			_, err = c.Read([]byte{0})
			c.Close()
		}
		if (err == nil) != (certs != nil) {
			t.Errorf("%s a certificate: %v", name, err)
		}
	}
}

func TestListenRefuses(t *testing.T) {
	_, cert, key := authority(t)
	socket := "unix://" + filepath.Join(t.TempDir(), "sock")
	for want, cfg := range map[string]config.GRPCConfig{
		"use unix://PATH or tcp://HOST:PORT":       {Address: []string{"npipe:////x"}},
		"listen on unix:///nonexistent/dir":        {Address: []string{socket, "unix:///proc/nonexistent/dir/sock"}},
		"--tlscert and --tlskey need each other":   {Address: []string{socket}, TLS: config.TLSConfig{Cert: cert}},
		"--tlscacert needs --tlscert and --tlskey": {Address: []string{socket}, TLS: config.TLSConfig{CA: cert}},
		"root on this machine":                     {Address: []string{"tcp://127.0.0.1:0"}},
		"--insecure-tcp": {Address: []string{"tcp://127.0.0.1:0"},
			TLS: config.TLSConfig{Cert: cert, Key: key}},
		"no certificate in it": {Address: []string{socket},
			TLS: config.TLSConfig{Cert: cert, Key: key, CA: key}},
		"TLS certificate: open /nonexistent: no su": {Address: []string{socket},
			TLS: config.TLSConfig{Cert: "/nonexistent", Key: key}},
	} {
		want = strings.Replace(want, "/nonexistent/dir", "/proc/nonexistent/dir", 1)
		if l, err := listen(cfg, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, %v; want %q", cfg.Address, l, err, want)
		}
	}
}

// A person may say that everybody who reaches the port may build.
func TestInsecureTCPIsSaid(t *testing.T) {
	listeners, err := listen(config.GRPCConfig{Address: []string{"tcp://127.0.0.1:0"}}, true)
	if err != nil {
		t.Fatal(err)
	}
	listeners[0].Close()
}
