// Command flame draws a CPU profile as a flame graph: an SVG on standard output that stands by
// itself. The wider a frame, the more of the time it and what it called took.
//
//	go run ./test/bench/flame -title "pipeline" cpu.pb.gz >flame.svg
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/google/pprof/profile"
)

func main() {
	title := flag.String("title", "CPU profile", "what stands above it")
	flag.Parse()
	if err := run(*title, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "flame:", err)
		os.Exit(1)
	}
}

// run merges the profiles in files, and draws them.
func run(title string, files []string) error {
	if len(files) == 0 {
		return errors.New("no profile given; usage: flame [-title TEXT] FILE")
	}
	var profiles []*profile.Profile
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		p, err := profile.Parse(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		profiles = append(profiles, p)
	}
	merged, err := profile.Merge(profiles)
	if err != nil {
		return err
	}
	return draw(os.Stdout, title, tree(merged))
}
