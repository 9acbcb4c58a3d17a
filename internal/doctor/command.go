package doctor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// ExitError is returned for an exit status that is not 0, after the report was written.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("doctor: exit status %d", e.Code) }

// Status returns the exit status.
func (e *ExitError) Status() int { return e.Code }

// Command is how the user calls holdfast.
type Command struct {
	Name    string // what they type, such as "holdfast" or "npx holdfast"
	Version string // of holdfast
}

// Doctor runs `holdfast doctor` with its arguments, and writes the report to stdout. Errors are an
// *ExitError, or wrap ErrUsage.
func (c Command) Doctor(ctx context.Context, args []string, stdout io.Writer) error {
	o, err := ParseArgs("doctor", args)
	if errors.Is(err, flag.ErrHelp) {
		return DoctorUsage(stdout)
	} else if err != nil {
		return err
	}
	r := Look(ctx, o)
	if o.JSON {
		err = r.WriteJSON(stdout)
	} else {
		err = r.WriteText(stdout, c.afterDoctor(r, o))
	}
	if err == nil && r.Exit != ExitOK {
		err = &ExitError{r.Exit}
	}
	return err
}

// afterDoctor returns what to do after the doctor.
func (c Command) afterDoctor(r Report, o Options) []string {
	if !r.OK {
		return nil
	}
	write := c.Name + " init"
	if r.URL != DefaultURL {
		write += " " + r.URL
	}
	if r.Path != defaultPath {
		write += " -path " + r.Path
	}
	if r.Path != defaultPath || r.has(CodeOldServer) { // no flag says so
		return []string{write + "   # writes holdfast.yaml for this server"}
	}
	port := listenPort(o)
	return []string{
		write + "   # writes holdfast.yaml for this server",
		c.Name + " -upstream " + r.URL + " -listen :" + port + "   # or without a file; then point clients at port " + port,
	}
}

// listenPort is the port that clients are to connect to.
func listenPort(o Options) string {
	_, port, err := net.SplitHostPort(listenAddress(o.URL))
	if err != nil {
		panic(err) // it is one of ours
	}
	return port
}

// Init runs `holdfast init` with its arguments. It writes the report to stdout, and the file.
// Errors are an *ExitError, wrap ErrUsage, or say why the file could not be written.
func (c Command) Init(ctx context.Context, args []string, stdout io.Writer) error {
	o, err := ParseArgs("init", args)
	if errors.Is(err, flag.ErrHelp) {
		return InitUsage(stdout)
	} else if err != nil {
		return err
	}
	if _, err := os.Stat(o.Out); err == nil && !o.Force {
		return fmt.Errorf("init: %s exists; -force replaces it, -out FILE writes another one", o.Out)
	}
	r := Look(ctx, o)
	if r.Exit == ExitNotFound {
		if err := r.WriteText(stdout, []string{"No file was written. Start the server, and run this again with its address."}); err != nil {
			return err
		}
		return &ExitError{ExitNotFound}
	}
	if err := writeFile(o.Out, Config(r, o, c.Version, time.Now()), o.Force); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	return r.WriteText(stdout, c.afterInit(r, o))
}

// afterInit returns what to do after init.
func (c Command) afterInit(r Report, o Options) []string {
	next := []string{"Wrote " + o.Out + ". Read it, and change what you need."}
	if !r.OK {
		next[0] += " The report above says what is in the way of recovery."
	}
	port := listenPort(o)
	return append(next,
		c.Name+" -config "+o.Out+"   # then point clients at port "+port,
		c.Name+" probe http://127.0.0.1:"+port+"   # checks that they are recovered")
}
