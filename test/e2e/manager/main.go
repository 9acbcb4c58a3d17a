//go:build linux

// Command manager is a service manager for tests. It does what systemd does for a service with
// Type=notify, Restart=always, NotifyAccess=main and FileDescriptorStoreMax=16: it runs a program,
// keeps the descriptors that the program stores, and passes them to the next run.
//
// It runs $PROGRAM with its own arguments. SIGUSR1 restarts the program, like systemctl restart,
// and SIGTERM stops it. The events go to standard output, one a line.
//
// $KILL_AT names a notification, or "second READY=1". The first time that it arrives the program is
// killed, and nothing of what it has sent after that is handled.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	storeMax     = 16
	restartDelay = 100 * time.Millisecond
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(1)
	}
}

// entry is a descriptor in the store.
type entry struct {
	name string
	file *os.File
}

type manager struct {
	socket string

	mu      sync.Mutex
	store   []entry
	killAt  string
	program *os.Process
	ready   int  // how often the program was
	deaf    bool // what arrives is from a program that was killed
}

func run() error {
	dir, err := os.MkdirTemp("", "manager-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	m := &manager{socket: filepath.Join(dir, "notify"), killAt: os.Getenv("KILL_AT")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	go m.receive(conn) // ends with the process
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	for {
		again, err := m.supervise(signals)
		if !again {
			return err
		}
		time.Sleep(restartDelay)
	}
}

// supervise runs the program once.
func (m *manager) supervise(signals <-chan os.Signal) (again bool, err error) {
	cmd := m.command()
	if err := cmd.Start(); err != nil {
		return false, err
	}
	m.mu.Lock()
	m.program, m.deaf = cmd.Process, false
	m.mu.Unlock()
	event("started %d with %s", cmd.Process.Pid, strings.Join(m.names(), ","))
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	again = true
	for {
		select {
		case s := <-signals:
			switch s {
			case syscall.SIGUSR1:
				_ = cmd.Process.Signal(syscall.SIGTERM)
			case syscall.SIGUSR2:
				_ = cmd.Process.Signal(syscall.SIGUSR2)
			default:
				again = false
				_ = cmd.Process.Signal(syscall.SIGTERM)
			}
		case err := <-exited:
			event("exited %v", err)
			if exit := (*exec.ExitError)(nil); !again || !errors.As(err, &exit) {
				return again, err
			}
			return true, nil
		}
	}
}

// command returns the program with the stored descriptors. The shell sets the process id that only
// it knows.
func (m *manager) command() *exec.Cmd {
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, os.Getenv("PROGRAM")}, os.Args[1:]...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.socket)
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.store) == 0 {
		return cmd
	}
	for _, e := range m.store {
		cmd.ExtraFiles = append(cmd.ExtraFiles, e.file)
	}
	cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(m.store)), "LISTEN_FDNAMES="+strings.Join(m.namesLocked(), ":"))
	return cmd
}

func (m *manager) names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.namesLocked()
}

func (m *manager) namesLocked() []string {
	var names []string
	for _, e := range m.store {
		names = append(names, e.name)
	}
	return names
}

// receive handles notifications.
func (m *manager) receive(conn *net.UnixConn) {
	b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*64))
	for {
		n, oobn, _, _, err := conn.ReadMsgUnix(b, oob)
		if err != nil {
			event("receive: %v", err)
			return
		}
		m.handle(parse(string(b[:n])), descriptors(oob[:oobn]))
	}
}

func parse(text string) map[string]string {
	vars := make(map[string]string)
	for line := range strings.SplitSeq(text, "\n") {
		name, value, _ := strings.Cut(line, "=")
		vars[name] = value
	}
	return vars
}

func descriptors(oob []byte) (files []*os.File) {
	messages, _ := unix.ParseSocketControlMessage(oob)
	for i := range messages {
		fds, _ := unix.ParseUnixRights(&messages[i])
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "stored"))
		}
	}
	return files
}

func (m *manager) handle(vars map[string]string, files []*os.File) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.deaf {
		vars = nil
	}
	defer m.killLocked(vars)
	switch {
	case vars["FDSTOREREMOVE"] == "1":
		m.removeLocked(func(e entry) bool { return e.name == vars["FDNAME"] })
		event("stored %s", strings.Join(m.namesLocked(), ","))
	case vars["FDSTORE"] == "1":
		for _, f := range files {
			m.addLocked(entry{vars["FDNAME"], f}, vars["FDPOLL"] != "0")
		}
		return
	case vars["READY"] == "1":
		event("ready")
	}
	for _, f := range files { // of a barrier
		f.Close()
	}
}

// killLocked kills the program if vars are those of $KILL_AT.
func (m *manager) killLocked(vars map[string]string) {
	if vars["READY"] == "1" {
		m.ready++
	}
	at := vars["FDNAME"]
	if vars["FDSTOREREMOVE"] == "1" {
		at = ""
	} else if m.ready == 2 && vars["READY"] == "1" {
		at = "second READY=1"
	}
	if m.killAt == "" || at != m.killAt {
		return
	}
	m.killAt, m.deaf = "", true
	event("killed at %s", at)
	_ = m.program.Kill()
}

func (m *manager) removeLocked(which func(e entry) bool) {
	kept := m.store[:0]
	for _, e := range m.store {
		if which(e) {
			e.file.Close()
		} else {
			kept = append(kept, e)
		}
	}
	m.store = kept
}

// addLocked stores a descriptor, unless it is there already. One that is polled goes when its peer
// has gone.
func (m *manager) addLocked(added entry, polled bool) {
	for _, e := range m.store {
		if same(e.file, added.file) {
			added.file.Close()
			return
		}
	}
	if len(m.store) == storeMax {
		event("the store is full")
		added.file.Close()
		return
	}
	fds := []unix.PollFd{{Fd: int32(added.file.Fd())}}
	if _, err := unix.Poll(fds, 0); err == nil && polled && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
		event("dropped %s", added.name)
		added.file.Close()
		return
	}
	m.store = append(m.store, added)
}

// same reports whether two descriptors are the same file.
func same(a, b *os.File) bool {
	var x, y unix.Stat_t
	return unix.Fstat(int(a.Fd()), &x) == nil && unix.Fstat(int(b.Fd()), &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

func event(format string, args ...any) { fmt.Printf("manager: "+format+"\n", args...) }
