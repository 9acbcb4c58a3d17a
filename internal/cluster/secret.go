package cluster

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
)

// MinSecret is the least length of a secret in bytes.
const MinSecret = 32

// protocol is the ALPN name of the peer protocol, with its version. Replicas that speak another
// version do not understand each other.
const protocol = "holdfast-peer/1"

// errStranger means that the other side does not know the secret.
var errStranger = errors.New("cluster: the other side has another cluster.secret")

// Keys prove that a replica belongs to the cluster. They are derived from the cluster's secrets and
// are immutable.
type Keys struct {
	protocol string // differs in tests only
	own      tls.Certificate
	accepted []ed25519.PublicKey
}

// NewKeys derives the keys from secrets, which must not be empty.
func NewKeys(secrets []string) (*Keys, error) {
	if len(secrets) == 0 {
		return nil, errors.New("cluster: no secret")
	}
	k := &Keys{protocol: protocol}
	for i, s := range secrets {
		if len(s) < MinSecret {
			return nil, fmt.Errorf("cluster: secret %d has %d bytes, fewer than %d", i+1, len(s), MinSecret)
		}
		seed, err := hkdf.Key(sha256.New, []byte(s), nil, "holdfast cluster identity 1", ed25519.SeedSize)
		if err != nil {
			return nil, err
		}
		key := ed25519.NewKeyFromSeed(seed)
		k.accepted = append(k.accepted, key.Public().(ed25519.PublicKey))
		if i == 0 {
			if k.own, err = selfSigned(key); err != nil {
				return nil, err
			}
		}
	}
	return k, nil
}

// selfSigned returns a certificate whose only purpose is to carry the key: nothing checks its names
// and dates.
func selfSigned(key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "holdfast replica"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// tlsConfig returns the settings of both sides: each presents a certificate and accepts only the
// cluster's keys. The handshake proves that the other side has the private key.
func (k *Keys) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{k.protocol},
		Certificates: []tls.Certificate{k.own}, ClientAuth: tls.RequireAnyClientCert,
		InsecureSkipVerify:          true, //nolint:gosec // VerifyConnection compares the key itself
		VerifyConnection:            k.verify,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
	}
}

func (k *Keys) verify(state tls.ConnectionState) error {
	if state.NegotiatedProtocol != k.protocol || len(state.PeerCertificates) == 0 {
		return errStranger
	}
	key, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return errStranger
	}
	known := 0
	for _, accepted := range k.accepted {
		known |= subtle.ConstantTimeCompare(key, accepted)
	}
	if known == 0 {
		return errStranger
	}
	return nil
}
