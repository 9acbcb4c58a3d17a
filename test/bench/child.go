//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The first arguments that make this program run as a child of itself.
const (
	serverArg  = "child-server"
	rawCopyArg = "child-rawcopy"
)

// runChild runs a child, and reports whether args are a child's.
func runChild(args []string) (isChild bool, err error) {
	if len(args) == 0 {
		return false, nil
	}
	switch args[0] {
	case serverArg:
		return true, serverMain(args[1:])
	case rawCopyArg:
		return true, rawCopyMain(args[1:])
	}
	return false, nil
}

// child is a process that this one has started. The starter must stop it.
type child struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  chan string // of its standard output; closed when that ends
	stderr *tail       // the end of its standard error
	stops  chan struct{}
	ended  chan struct{} // closed after it has exited
}

// startChild starts a process. It gets SIGTERM if this one dies.
func startChild(name string, cmd *exec.Cmd) (*child, error) {
	c := &child{
		name: name, cmd: cmd,
		lines:  make(chan string, 16), // responses are read one at a time, so this never blocks
		stderr: &tail{},
		stops:  make(chan struct{}), ended: make(chan struct{}),
	}
	cmd.Stderr = c.stderr
	cmd.WaitDelay = time.Second // its children may hold its pipes open
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	var err error
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go c.watch(stdout) // ends with the process
	return c, nil
}

func (c *child) watch(stdout io.Reader) {
	defer close(c.ended)
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		select {
		case c.lines <- lines.Text():
		case <-c.stops:
		}
	}
	close(c.lines)
	_ = c.cmd.Wait() // alive reports an unexpected end
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// alive returns an error once the process has ended.
func (c *child) alive() error {
	select {
	case <-c.ended:
		return fmt.Errorf("%s exited unexpectedly: %v%s", c.name, c.cmd.ProcessState, c.stderr)
	default:
		return nil
	}
}

// ask writes a line to the process, and returns its response.
func (c *child) ask(ctx context.Context, line string) (string, error) {
	if _, err := io.WriteString(c.stdin, line+"\n"); err != nil {
		return "", fmt.Errorf("%s: %w%s", c.name, err, c.stderr)
	}
	return c.answer(ctx)
}

// answerTimeout is how long the server may take for a command, such as 100 broadcasts.
const answerTimeout = time.Minute

func (c *child) answer(ctx context.Context) (string, error) {
	late := time.NewTimer(answerTimeout)
	defer late.Stop()
	select {
	case line, ok := <-c.lines:
		if !ok {
			return "", fmt.Errorf("%s exited unexpectedly%s", c.name, c.stderr)
		}
		return line, nil
	case <-late.C:
		return "", fmt.Errorf("%s does not respond%s", c.name, c.stderr)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// stop stops the process and its children, and waits for it.
func (c *child) stop() {
	close(c.stops)
	c.stdin.Close()
	children := childrenOf(c.pid())
	if len(children) > 0 { // then it must stop them
		c.signal(syscall.SIGTERM)
		select {
		case <-c.ended:
			return
		case <-time.After(3 * time.Second):
		}
	}
	c.signal(syscall.SIGKILL)
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have exited already
	}
	<-c.ended
}

func (c *child) signal(s os.Signal) {
	if err := c.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.stderr.add(err.Error()) // there is nothing else to do
	}
}

// tail keeps the end of its input. It is safe for concurrent use.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 2000

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - tailBytes; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

func (t *tail) add(s string) { _, _ = t.Write([]byte(s + "\n")) }

// String returns the text for the end of an error message.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.text) == 0 {
		return ""
	}
	return "; its output was:\n" + strings.TrimSpace(string(t.text))
}
