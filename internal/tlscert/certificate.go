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

// Files is a certificate that is read from two PEM files, and read again when they change. It is
// safe for concurrent use, but for Check, which Watch calls.
type Files struct {
	// Immutable.
	certFile, keyFile string
	log               *slog.Logger
	metrics           *metrics.Metrics

	current atomic.Pointer[tls.Certificate]

	// Owned by Check.
	loaded   digest // what current was made of
	failed   digest // what no certificate could be made of at the last look
	reported digest // what that was logged for
}

// digest stands for what was found in the files, or why they could not be read.
type digest [sha256.Size]byte

// Load reads the files. Its error says which of them is wrong, and why.
func Load(certFile, keyFile string, log *slog.Logger, m *metrics.Metrics) (*Files, error) {
	f := &Files{certFile: certFile, keyFile: keyFile, log: log, metrics: m}
	cert, found, err := f.read()
	if err != nil {
		return nil, err
	}
	f.use(cert, found)
	return f, nil
}

// Get is for tls.Config.GetCertificate.
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

// Check reads the files, and takes their certificate if it is another. The contents are compared, not the times: so it
// does not matter how the files are replaced, by renaming or by a change of symbolic links on the way to them.
//
// If there is no certificate in them the former stays. That is logged and counted when two calls have found the same:
// a certificate and its key are two files, and for a moment one may be newer than the other.
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
		f.log.Error("certificate not reloaded: the former one stays in use", "error", err,
			"expires", f.current.Load().Leaf.NotAfter)
	}
}

func (f *Files) use(cert *tls.Certificate, found digest) {
	f.current.Store(cert)
	f.loaded, f.failed, f.reported = found, digest{}, digest{}
	f.metrics.CertificateExpiry.Set(float64(cert.Leaf.NotAfter.Unix()))
}

// read makes a certificate of the files. found is set also with an error.
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
	fmt.Fprintf(both, "%d\n", len(certPEM)) //nolint:errcheck // a hash takes all
	both.Write(certPEM)
	both.Write(keyPEM)
	both.Sum(found[:0])
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, found, fmt.Errorf("%s and %s: %w", f.certFile, f.keyFile, err)
	}
	return &pair, found, nil
}
