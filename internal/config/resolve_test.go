package config

import (
	"math"
	"net/url"
	"testing"
	"testing/fstest"
)

func TestSplitListen(t *testing.T) {
	tests := []struct{ in, network, address string }{
		{":8080", "tcp", ":8080"},
		{"[::1]:80", "tcp", "[::1]:80"},
		{"unix:///run/a.sock", "unix", "/run/a.sock"},
	}
	for _, tt := range tests {
		if network, address := SplitListen(tt.in); network != tt.network || address != tt.address {
			t.Errorf("SplitListen(%q) = %q, %q; want %q, %q", tt.in, network, address, tt.network, tt.address)
		}
	}
}

func TestSplitURL(t *testing.T) {
	tests := []struct {
		in, network, address string
		secure               bool
	}{
		{"http://127.0.0.1:3000", "tcp", "127.0.0.1:3000", false},
		{"http://app", "tcp", "app:80", false},
		{"https://app", "tcp", "app:443", true},
		{"https://[::1]:8443", "tcp", "[::1]:8443", true},
		{"unix:///run/app.sock", "unix", "/run/app.sock", false},
	}
	for _, tt := range tests {
		network, address, secure := SplitURL(tt.in)
		if network != tt.network || address != tt.address || secure != tt.secure {
			t.Errorf("%q: got %q, %q, %v; want %q, %q, %v", tt.in, network, address, secure, tt.network, tt.address, tt.secure)
		}
	}
}

func TestTrustedPrefixes(t *testing.T) {
	c := Config{TrustedProxies: []string{"10.0.0.0/8", "192.168.1.7", "::1", "::ffff:1.2.3.4"}}
	want := []string{"10.0.0.0/8", "192.168.1.7/32", "::1/128", "1.2.3.4/32"}
	got := c.TrustedPrefixes()
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range got {
		if got[i].String() != want[i] {
			t.Errorf("%s: got %v, want %v", c.TrustedProxies[i], got[i], want[i])
		}
	}
}

func TestFilter(t *testing.T) {
	byQuery := Clients{Query: "recover"}
	byAgent := Clients{UserAgent: "^Mozilla/"}
	either := Clients{Query: "recover", UserAgent: "^Mozilla/"}
	tests := []struct {
		name         string
		clients      Clients
		query, agent string
		optIn        bool // with OptOut it is the opposite
	}{
		{"absent", byQuery, "EIO=4", "Mozilla/5.0", false},
		{"present", byQuery, "EIO=4&recover=1", "", true},
		{"without value", byQuery, "recover", "", true},
		{"zero", byQuery, "recover=0", "", false},
		{"false", byQuery, "recover=false", "", false},
		{"any text", byQuery, "recover=no", "", true},
		{"agent matches", byAgent, "recover=1", "Mozilla/5.0", true},
		{"agent does not", byAgent, "recover=1", "curl/8 Mozilla/", false},
		{"no agent", byAgent, "", "", false},
		{"either, by agent", either, "recover=0", "Mozilla/5.0", true},
		{"either, by query", either, "recover=1", "curl", true},
		{"either, neither", either, "", "curl", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			query, err := url.ParseQuery(tt.query)
			if err != nil {
				t.Fatal(err)
			}
			for mode, want := range map[ClientMode]bool{OptIn: tt.optIn, OptOut: !tt.optIn, AutoClients: true, AllClients: true} {
				tt.clients.Mode = mode
				filter, err := tt.clients.Filter()
				if err != nil {
					t.Fatal(err)
				}
				if got := filter(query, tt.agent); got != want {
					t.Errorf("%s: %v, want %v", mode, got, want)
				}
			}
		})
	}
	if _, err := (Clients{Mode: OptIn, UserAgent: "("}).Filter(); err == nil {
		t.Error("no error for a bad expression")
	}
}

func TestBudget(t *testing.T) {
	const none = math.MaxInt64
	files := func(namesAndTexts ...string) fstest.MapFS {
		root := fstest.MapFS{}
		for i := 0; i < len(namesAndTexts); i += 2 {
			root[namesAndTexts[i]] = &fstest.MapFile{Data: []byte(namesAndTexts[i+1] + "\n")}
		}
		return root
	}
	container := files("proc/self/cgroup", "0::/", "sys/fs/cgroup/memory.max", "1073741824")
	tests := []struct {
		name   string
		buffer Buffer
		limit  int64
		root   fstest.MapFS
		want   Size
		reason string
	}{
		{"configured", Buffer{TotalBytes: 7 * MiB}, 64 << 20, container, 7 * MiB, "configured"},
		{"nothing known", Buffer{}, none, files(), 512 * MiB, "no memory limit found"},
		{"GOMEMLIMIT", Buffer{}, 256 << 20, files(), 128 * MiB, "half of GOMEMLIMIT"},
		{"container", Buffer{}, none, container, 512 * MiB, "half of the container's memory limit"},
		{"GOMEMLIMIT less than the container's", Buffer{}, 256 << 20, container, 128 * MiB, "half of GOMEMLIMIT"},
		{"GOMEMLIMIT more than the container's", Buffer{}, 4 << 30, container, 512 * MiB, "half of the container's memory limit"},
		{"no limit in v2", Buffer{}, none, files("proc/self/cgroup", "0::/", "sys/fs/cgroup/memory.max", "max"), 512 * MiB, "no memory limit found"},
		{
			"systemd's MemoryMax",
			Buffer{},
			none,
			files("proc/self/cgroup", "0::/system.slice/holdfast.service", "sys/fs/cgroup/system.slice/holdfast.service/memory.max", "104857600"),
			50 * MiB, "half of the container's memory limit",
		},
		{
			"memory.high is less",
			Buffer{},
			none,
			files("proc/self/cgroup", "0::/a", "sys/fs/cgroup/a/memory.max", "104857600", "sys/fs/cgroup/a/memory.high", "83886080"),
			40 * MiB, "half of the container's memory limit",
		},
		{
			"a group around it has less",
			Buffer{},
			none,
			files("proc/self/cgroup", "0::/pod/app", "sys/fs/cgroup/pod/app/memory.max", "max", "sys/fs/cgroup/pod/memory.max", "20971520"),
			10 * MiB, "half of the container's memory limit",
		},
		{
			"v1, with the host's path",
			Buffer{},
			none,
			files("proc/self/cgroup", "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x", "sys/fs/cgroup/memory/memory.limit_in_bytes", "20971520"),
			10 * MiB, "half of the container's memory limit",
		},
		{
			"v1 without limit",
			Buffer{},
			none,
			files("proc/self/cgroup", "4:memory:/", "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712"),
			512 * MiB, "no memory limit found",
		},
		{"nonsense", Buffer{}, none, files("proc/self/cgroup", "x\n0::../..", "sys/fs/cgroup/memory.max", "-5"), 512 * MiB, "no memory limit found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, reason := tt.buffer.budget(tt.limit, tt.root)
			if got != tt.want || reason != tt.reason {
				t.Errorf("got %v, %q; want %v, %q", got, reason, tt.want, tt.reason)
			}
		})
	}
}

// The result depends on the machine that runs the test.
func TestBudgetHere(t *testing.T) {
	if got, reason := Default().Recovery.Buffer.Budget(); got < MiB || reason == "" {
		t.Errorf("got %v, %q", got, reason)
	}
}
