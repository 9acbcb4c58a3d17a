package config

import (
	"strings"
	"testing"
)

func TestEnvironment(t *testing.T) {
	tests := []struct {
		name    string
		environ []string
		want    []string
	}{
		{"empty list", []string{"HOLDFAST_TRUSTED_PROXIES="}, nil},
		{"list with blanks", []string{"HOLDFAST_ENGINEIO_PATHS=/a/, /b/"}, nil},
		{"admin turned off", []string{"HOLDFAST_ADMIN_LISTEN="}, nil},
		{"empty duration", []string{"HOLDFAST_UPSTREAM_DIAL_TIMEOUT="}, []string{`HOLDFAST_UPSTREAM_DIAL_TIMEOUT: upstream.dial_timeout: found ""; allowed: a duration`}},
		{
			"unknown",
			[]string{"HOLDFAST_UPSTREAM=http://a:1"},
			[]string{"HOLDFAST_UPSTREAM: unknown variable; did you mean HOLDFAST_UPSTREAM_URL?"},
		},
		{
			"misspelt",
			[]string{"HOLDFAST_LOG_LEVELS=info"},
			[]string{"HOLDFAST_LOG_LEVELS: unknown variable; did you mean HOLDFAST_LOG_LEVEL?"},
		},
		{
			"unlike any setting's is ignored",
			[]string{
				"HOLDFAST_X=1", "HOLDFAST_VERSION=1.2", "HOLDFAST_IMAGE=holdfast", "HOLDFAST_USER=app", "HOLDFAST_TOKEN=x",
				"HOLDFAST_DOMAIN=example.com", "HOLDFAST_HOST=example.com", "HOLDFAST_NODE_ENV=production",
			},
			nil,
		},
		{
			"out of range",
			[]string{"HOLDFAST_LIMITS_HEADER_BYTES=1"},
			[]string{`HOLDFAST_LIMITS_HEADER_BYTES: limits.header_bytes: found "1"; allowed: 4KiB to 16MiB`},
		},
		{
			"Kubernetes' variables for services called holdfast and holdfast-chat",
			[]string{
				"HOLDFAST_SERVICE_HOST=10.0.0.1", "HOLDFAST_SERVICE_PORT=8080", "HOLDFAST_SERVICE_PORT_HTTP=8080",
				"HOLDFAST_PORT=tcp://10.0.0.1:8080", "HOLDFAST_PORT_8080_TCP=tcp://10.0.0.1:8080",
				"HOLDFAST_PORT_8080_TCP_PROTO=tcp", "HOLDFAST_PORT_8080_TCP_PORT=8080", "HOLDFAST_PORT_8080_TCP_ADDR=10.0.0.1",
				"HOLDFAST_CHAT_SERVICE_HOST=10.0.0.1", "HOLDFAST_CHAT_PORT=udp://10.0.0.1:1",
			},
			nil,
		},
		{
			"Kubernetes' variables for services whose names are like settings",
			[]string{
				"HOLDFAST_ADMIN_LISTEN_SERVICE_HOST=10.0.0.1", "HOLDFAST_LOG_SERVICE_PORT=80", "HOLDFAST_UPSTREAM_PORT=tcp://[fd00::1]:80",
				"HOLDFAST_LISTEN_PORT_80_TCP_ADDR=fd00::1", "HOLDFAST_TLS_SERVICE_PORT_HTTPS_ALT=443",
			},
			nil,
		},
		{
			"Docker's variables for a linked container",
			[]string{"HOLDFAST_NAME=/web/holdfast", "HOLDFAST_ENV_LISTEN=x", "HOLDFAST_PORT_80_TCP=tcp://172.17.0.2:80", "HOLDFAST_LOG_ENV_PATH=/bin"},
			nil,
		},
		{
			"of a section that exists",
			[]string{"HOLDFAST_LOG_FILE=/var/log/holdfast"},
			[]string{"HOLDFAST_LOG_FILE: unknown variable; did you mean HOLDFAST_LOG_LEVEL? If it is meant for something else, unset it for holdfast or rename it"},
		},
		{
			"without its section",
			[]string{"HOLDFAST_MAX_DISCONNECTION_DURATION=1m"},
			[]string{"HOLDFAST_MAX_DISCONNECTION_DURATION: unknown variable; did you mean HOLDFAST_RECOVERY_MAX_DISCONNECTION_DURATION?"},
		},
		{
			"in which the section is misspelt",
			[]string{"HOLDFAST_UPSTREM_URL=http://a:1", "HOLDFAST_LISTN=:1"},
			[]string{"HOLDFAST_LISTN: unknown variable; did you mean HOLDFAST_LISTEN?", "HOLDFAST_UPSTREM_URL: unknown variable; did you mean HOLDFAST_UPSTREAM_URL?"},
		},
		{
			"named as Kubernetes' are, with another value",
			[]string{"HOLDFAST_ADMIN_PORT=9090"},
			[]string{"HOLDFAST_ADMIN_PORT: unknown variable; did you mean HOLDFAST_ADMIN_LISTEN? If Kubernetes sets it for a service of that name, set enableServiceLinks: false in the pod's spec;"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := load(t, nil, tt.environ)
			got := problems(t, err)
			ok := len(got) == len(tt.want)
			for i := range min(len(got), len(tt.want)) {
				ok = ok && strings.HasPrefix(got[i], tt.want[i])
			}
			if !ok {
				t.Errorf("%v\n got %q\nwant %q", tt.environ, got, tt.want)
			}
		})
	}
}
