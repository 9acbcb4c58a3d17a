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

// The first argument that makes this program one of its own children.
const (
	serverArg  = "child-server"
	rawCopyArg = "child-rawcopy"
)

// runChild does what a child does, and reports whether args are a child's.
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

// child is a process that this one has started; whoever starts it stops it.
type child struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string // of its standard output; closed when that ends
	said  *tail       // on its standard error
	stops chan struct{}
	ended chan struct{} // closed when it has exited
}

// startChild starts a process. Should this one die, it gets SIGTERM.
func startChild(name string, cmd *exec.Cmd) (*child, error) {
	c := &child{
		name: name, cmd: cmd,
		lines: make(chan string, 16), // answers are read one by one; a few more are harmless
		said:  &tail{},
		stops: make(chan struct{}), ended: make(chan struct{}),
	}
	cmd.Stderr = c.said
	cmd.WaitDelay = time.Second // for what its own children hold open
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
	_ = c.cmd.Wait() // how it ended matters only if it was not to: see alive
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// alive returns an error once the process has ended.
func (c *child) alive() error {
	select {
	case <-c.ended:
		return fmt.Errorf("%s ended by itself: %v%s", c.name, c.cmd.ProcessState, c.said)
	default:
		return nil
	}
}

// ask writes a line to the process, and returns the line that it answers.
func (c *child) ask(ctx context.Context, line string) (string, error) {
	if _, err := io.WriteString(c.stdin, line+"\n"); err != nil {
		return "", fmt.Errorf("%s: %w%s", c.name, err, c.said)
	}
	return c.answer(ctx)
}

// answerTimeout is for what the server does at once, and for 100 broadcasts.
const answerTimeout = time.Minute

func (c *child) answer(ctx context.Context) (string, error) {
	late := time.NewTimer(answerTimeout)
	defer late.Stop()
	select {
	case line, ok := <-c.lines:
		if !ok {
			return "", fmt.Errorf("%s ended by itself%s", c.name, c.said)
		}
		return line, nil
	case <-late.C:
		return "", fmt.Errorf("%s does not answer%s", c.name, c.said)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// stop ends the process and its own children, and waits for it.
func (c *child) stop() {
	close(c.stops)
	c.stdin.Close()
	children := childrenOf(c.pid())
	if len(children) > 0 { // it is to end them, then
		c.signal(syscall.SIGTERM)
		select {
		case <-c.ended:
			return
		case <-time.After(3 * time.Second):
		}
	}
	c.signal(syscall.SIGKILL)
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
	<-c.ended
}

func (c *child) signal(s os.Signal) {
	if err := c.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.said.add(err.Error()) // nothing else can be done
	}
}

// tail keeps the end of what is written to it. It is safe for concurrent use.
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

// String is for the end of an error message.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.text) == 0 {
		return ""
	}
	return "; it said:\n" + strings.TrimSpace(string(t.text))
}
