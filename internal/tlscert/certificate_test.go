package tlscert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast/holdfast/metrics"
)

// pair makes a certificate with this serial number, which expires a year after the one before it.
func pair(t *testing.T, serial int64) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: expiry(serial)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func expiry(serial int64) time.Time { return time.Unix(2_000_000_000+serial*365*86400, 0) }

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// files is a Files in a temporary directory, with certificate 1.
type files struct {
	*Files
	t    *testing.T
	dir  string
	log  bytes.Buffer
	held *metrics.Metrics
}

func newFiles(t *testing.T) *files {
	t.Helper()
	f := &files{t: t, dir: t.TempDir(), held: metrics.New(prometheus.NewRegistry())}
	cert, key := pair(t, 1)
	write(t, f.path("tls.crt"), cert)
	write(t, f.path("tls.key"), key)
	f.load()
	return f
}

func (f *files) path(name string) string { return filepath.Join(f.dir, name) }

func (f *files) load() {
	f.t.Helper()
	var err error
	f.Files, err = Load(f.path("tls.crt"), f.path("tls.key"), slog.New(slog.NewTextHandler(&f.log, nil)), f.held)
	if err != nil {
		f.t.Fatal(err)
	}
}

// want checks what has happened so far.
func (f *files) want(what string, serial int64, reloaded, failed int) {
	f.t.Helper()
	cert, err := f.Get(nil)
	if err != nil {
		f.t.Fatal(err)
	}
	if got := cert.Leaf.SerialNumber.Int64(); got != serial {
		f.t.Errorf("%s: certificate %d is in use, want %d", what, got, serial)
	}
	if got := testutil.ToFloat64(f.held.CertificateExpiry); got != float64(expiry(serial).Unix()) {
		f.t.Errorf("%s: the metric says it expires at %v", what, got)
	}
	r := f.held.CertificateReloads
	if ok, bad := testutil.ToFloat64(r.OK), testutil.ToFloat64(r.Failed); ok != float64(reloaded) || bad != float64(failed) {
		f.t.Errorf("%s: %v reloads, %v failed; want %d, %d", what, ok, bad, reloaded, failed)
	}
	text := f.log.String()
	if n := strings.Count(text, `"certificate reloaded"`); n != reloaded {
		f.t.Errorf("%s: %d reloads in the log, want %d", what, n, reloaded)
	}
	if n := strings.Count(text, `"certificate not reloaded`); n != failed {
		f.t.Errorf("%s: %d failures in the log, want %d:\n%s", what, n, failed, text)
	}
}

func TestRenewal(t *testing.T) {
	f := newFiles(t)
	f.want("at first", 1, 0, 0)
	f.Check()
	f.want("unchanged", 1, 0, 0)
	cert, key := pair(t, 2)
	write(t, f.path("tls.crt"), cert)
	f.Check()
	f.want("the key is still the old one", 1, 0, 0)
	write(t, f.path("tls.key"), key)
	f.Check()
	f.want("both are new", 2, 1, 0)
	f.Check()
	f.want("still unchanged", 2, 1, 0)
}

func TestBrokenFiles(t *testing.T) {
	f := newFiles(t)
	oldCert, err := os.ReadFile(f.path("tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, f.path("tls.crt"), []byte("no PEM"))
	f.Check()
	f.want("broken, for the first time", 1, 0, 0)
	for range 3 {
		f.Check()
		f.want("broken", 1, 0, 1)
	}
	write(t, f.path("tls.crt"), oldCert)
	f.Check()
	f.want("put back", 1, 0, 1)

	if err := os.Remove(f.path("tls.key")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f.Check()
	}
	f.want("without a key", 1, 0, 2)
	cert, key := pair(t, 2)
	write(t, f.path("tls.crt"), cert)
	write(t, f.path("tls.key"), key)
	f.Check()
	f.want("mended", 2, 1, 2)
	if strings.Contains(f.log.String(), "PRIVATE") {
		t.Error("the log contains a key")
	}
}

// TestKubernetesSecret: the files of a mounted secret are links through a link to the directory of
// the current version.
func TestKubernetesSecret(t *testing.T) {
	f := &files{t: t, dir: t.TempDir(), held: metrics.New(prometheus.NewRegistry())}
	version := func(name string, serial int64) {
		cert, key := pair(t, serial)
		if err := os.Mkdir(f.path(name), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, f.path(name+"/tls.crt"), cert)
		write(t, f.path(name+"/tls.key"), key)
		if err := os.Symlink(name, f.path("..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(f.path("..data_tmp"), f.path("..data")); err != nil {
			t.Fatal(err)
		}
	}
	version("..2026_01", 1)
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink("..data/"+name, f.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	f.load()
	f.want("at first", 1, 0, 0)
	version("..2026_02", 2)
	f.Check()
	f.want("after the swap", 2, 1, 0)
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	cert, key := pair(t, 1)
	_, other := pair(t, 2)
	write(t, dir+"/crt", cert)
	write(t, dir+"/key", key)
	write(t, dir+"/other", other)
	write(t, dir+"/empty", nil)
	for _, tt := range []struct{ cert, key, want string }{
		{"absent", "key", "absent: no such file"},
		{"crt", "absent", "absent: no such file"},
		{"empty", "key", "empty"},
		{"crt", "other", "private key does not match public key"},
	} {
		f, err := Load(dir+"/"+tt.cert, dir+"/"+tt.key, slog.New(slog.DiscardHandler), metrics.New(prometheus.NewRegistry()))
		if f != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Load(%s, %s): %v, want it to say %q", tt.cert, tt.key, err, tt.want)
		}
	}
}

// TestWatch: a handshake after the next check gets the new certificate.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFiles(t)
		go f.Watch(t.Context())
		cert, key := pair(t, 2)
		write(t, f.path("tls.crt"), cert)
		write(t, f.path("tls.key"), key)
		time.Sleep(Interval)
		synctest.Wait()
		f.want("after the next check", 2, 1, 0)
	})
}
