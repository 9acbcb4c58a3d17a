package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/holdfast/holdfast/internal/clientjs"
)

// loader collects a Config from its sources, and the problems it finds.
type loader struct {
	config   Config
	sources  Sources
	bad      map[string]bool // keys whose last value could not be parsed
	problems []Problem
}

func newLoader() *loader {
	return &loader{config: Default(), sources: Sources{}, bad: map[string]bool{}}
}

// Load builds and validates the configuration. It applies, in this order, the defaults, the file
// that the command line or HOLDFAST_CONFIG names, the variables in environ ("NAME=value", as
// os.Environ returns them), and the command line. It may be called again to reload.
//
// Load also reads the certificate files, to report their problems early, and
// compares the window with the memory budget. The error is an *Error.
func Load(c CommandLine, environ []string) (Config, Sources, error) {
	l := newLoader()
	switch file := lookup(environ, envFile); {
	case c.File != "":
		l.applyFile(c.File, "-config")
	case file != "":
		l.applyFile(file, envFile)
	}
	l.applyEnviron(environ)
	byKey := make(map[string]setting)
	for _, s := range settings(&l.config) {
		byKey[s.key] = s
	}
	for _, f := range c.set {
		l.apply(f.name, byKey[f.key], f.value)
	}
	l.problems = append(l.problems, l.config.validate(l.sources, l.bad)...)
	if len(l.problems) == 0 {
		l.checkFiles()
		l.checkBudget(l.config.Recovery.Buffer.Budget())
	}
	if err := asError(l.problems); err != nil {
		return Config{}, nil, err
	}
	return l.config, l.sources, nil
}

// LoadYAML is Load for the text of a file alone, which Config.YAML has written.
func LoadYAML(text []byte) (Config, error) {
	l := newLoader()
	l.applyYAML("handover", text)
	l.problems = append(l.problems, l.config.validate(l.sources, l.bad)...)
	return l.config, asError(l.problems)
}

func (l *loader) fail(source, key, message string) {
	l.problems = append(l.problems, Problem{Source: source, Key: key, Message: message})
}

// apply sets one setting from text.
func (l *loader) apply(source string, s setting, text string) {
	if err := s.parse(text); err != nil {
		l.fail(source, s.key, "found "+strconv.Quote(text)+"; "+err.Error())
		l.bad[s.key] = true
		return
	}
	delete(l.bad, s.key)
	l.sources[s.key] = source
}

// checkFiles reads the files that the settings name.
func (l *loader) checkFiles() {
	if t := l.config.TLS; t.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
			l.problems = append(l.problems, l.sources.problem("tls.cert_file", t.CertFile,
				fmt.Sprintf("PEM files of a certificate and its key (%v)", err)))
		}
	}
	if k := l.config.Cluster; k.Enabled() && k.SecretFile != "" {
		if _, err := k.Secrets(); err != nil {
			l.problems = append(l.problems, l.sources.problem("cluster.secret_file", k.SecretFile,
				fmt.Sprintf("a readable file with a secret of at least %d bytes in each line (%v); %s", MinSecret, err, howToMakeSecret)))
		}
	}
	if dir := l.config.ClientBundle.Dir; dir != "" {
		if _, err := clientjs.Open(dir); err != nil {
			l.problems = append(l.problems, l.sources.problem("client_bundle.dir", dir,
				fmt.Sprintf("the dist folder of socket.io-client 4.6 or later, such as node_modules/socket.io-client/dist (%v)", err)))
		}
	}
	if file := l.config.Upstream.TLS.CAFile; file != "" {
		pem, err := os.ReadFile(file)
		if err == nil && !x509.NewCertPool().AppendCertsFromPEM(pem) {
			err = errors.New("it contains no certificate")
		}
		if err != nil {
			l.problems = append(l.problems, l.sources.problem("upstream.tls.ca_file", file,
				fmt.Sprintf("a PEM file of certificates (%v)", err)))
		}
	}
}

// checkBudget compares the window with a budget that was derived from the
// available memory. validate does so if the budget is configured.
func (l *loader) checkBudget(total Size, reason string) {
	const key = "recovery.buffer.window"
	if window := l.config.Recovery.Buffer.Window; window > total {
		l.problems = append(l.problems, l.sources.problem(key, window.String(),
			fmt.Sprintf("at most %v, the automatic value of recovery.buffer.total_bytes (%s)", total, reason)))
	}
}
