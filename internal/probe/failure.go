package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/holdfast/holdfast/internal/neterr"
)

// Failure says why a request got no answer, as far as its error tells.
type Failure uint8

// Failures.
const (
	OtherFailure   Failure = iota
	UnknownHost            // the host name cannot be resolved
	TLSFailure             // the certificate is not acceptable, or the handshake failed
	NoTLS                  // the server does not speak TLS
	NoAnswer               // none came in time
	NothingListens         // at this address
	ClosedByPeer           // the other side closed the connection
)

// FailureOf returns the Failure that err stands for.
func FailureOf(err error) Failure {
	var (
		dns       *net.DNSError
		unknownCA x509.UnknownAuthorityError
		wrongName x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		noTLS     tls.RecordHeaderError
		alert     tls.AlertError
		timeout   net.Error
	)
	switch {
	case errors.As(err, &dns):
		return UnknownHost
	case errors.As(err, &unknownCA), errors.As(err, &wrongName), errors.As(err, &invalid), errors.As(err, &verify), errors.As(err, &alert):
		return TLSFailure
	case errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return NoTLS
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return NoAnswer
	case neterr.IsRefused(err):
		return NothingListens
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), neterr.IsReset(err), errors.Is(err, net.ErrClosed):
		return ClosedByPeer
	}
	return OtherFailure
}

// DNSProblem returns the text of the error of a name server in err.
func DNSProblem(err error) string {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return "the host name cannot be resolved: " + dns.Error()
	}
	return ""
}
