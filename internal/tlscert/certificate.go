package tlscert

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/metrics"
)

// Interval is how often Watch looks at the files.
const Interval = 2 * time.Second

// Files is a certificate that is loaded from two PEM files, and reloaded when they change. It is
// safe for concurrent use, except for Check, which Watch calls.
type Files struct {
	// Immutable.
	certFile, keyFile string
	log               *slog.Logger
	metrics           *metrics.Metrics

	current atomic.Pointer[tls.Certificate]

	// Owned by Check.
	loaded   digest // the contents that current was made from
	failed   digest // the contents at the last check, if they were invalid
	reported digest // the invalid contents that were logged last
}

// digest is a hash of the files' contents, or of the error from reading them.
type digest [sha256.Size]byte

// Load reads the files. Its error says which file is wrong, and why.
func Load(certFile, keyFile string, log *slog.Logger, m *metrics.Metrics) (*Files, error) {
	f := &Files{certFile: certFile, keyFile: keyFile, log: log, metrics: m}
	cert, found, err := f.read()
	if err != nil {
		return nil, err
	}
	f.use(cert, found)
	return f, nil
}

// Get implements tls.Config.GetCertificate.
func (f *Files) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.current.Load(), nil }

// Watch calls Check at every Interval until ctx is done.
func (f *Files) Watch(ctx context.Context) {
	ticker := time.NewTicker(Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			f.Check()
		case <-ctx.Done():
			return
		}
	}
}

// Check reads the files, and uses their certificate if it has changed. It compares contents, not
// times, so it does not matter how files are replaced: by renaming, or by changing symbolic links.
//
// If the files are invalid, the old certificate stays in use. That is logged and counted only after
// two calls found the same contents: certificate and key are separate files, and one may briefly be
// newer than the other.
func (f *Files) Check() {
	cert, found, err := f.read()
	switch {
	case found == f.loaded:
		f.failed, f.reported = digest{}, digest{}
	case err == nil:
		f.use(cert, found)
		f.metrics.CertificateReloads.OK.Inc()
		f.log.Info("certificate reloaded", "file", f.certFile, "expires", cert.Leaf.NotAfter)
	case found != f.failed:
		f.failed = found
	case found != f.reported:
		f.reported = found
		f.metrics.CertificateReloads.Failed.Inc()
		f.log.Error("certificate not reloaded: the old one stays in use", "error", err,
			"expires", f.current.Load().Leaf.NotAfter)
	}
}

func (f *Files) use(cert *tls.Certificate, found digest) {
	f.current.Store(cert)
	f.loaded, f.failed, f.reported = found, digest{}, digest{}
	f.metrics.CertificateExpiry.Set(float64(cert.Leaf.NotAfter.Unix()))
}

// read loads a certificate from the files. It returns their digest even if it fails.
func (f *Files) read() (cert *tls.Certificate, found digest, err error) {
	certPEM, err := os.ReadFile(f.certFile)
	if err != nil {
		return nil, sha256.Sum256([]byte(err.Error())), err
	}
	keyPEM, err := os.ReadFile(f.keyFile)
	if err != nil {
		return nil, sha256.Sum256([]byte(err.Error())), err
	}
	both := sha256.New()
	fmt.Fprintf(both, "%d\n", len(certPEM)) //nolint:errcheck // a hash never fails
	both.Write(certPEM)
	both.Write(keyPEM)
	both.Sum(found[:0])
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, found, fmt.Errorf("%s and %s: %w", f.certFile, f.keyFile, err)
	}
	return &pair, found, nil
}
