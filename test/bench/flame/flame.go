package main

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

// frame is a function on the stack with those that it called.
type frame struct {
	name  string
	value int64 // nanoseconds, with what it called
	calls map[string]*frame
}

func (f *frame) call(name string) *frame {
	c := f.calls[name]
	if c == nil {
		c = &frame{name: name, calls: make(map[string]*frame)}
		f.calls[name] = c
	}
	return c
}

// sorted are the calls, by name.
func (f *frame) sorted() []*frame {
	return slices.SortedFunc(maps.Values(f.calls), func(a, b *frame) int { return cmp.Compare(a.name, b.name) })
}

// depth is how many calls are on top of one another.
func (f *frame) depth() int {
	deepest := 0
	for _, c := range f.calls {
		deepest = max(deepest, c.depth())
	}
	return deepest + 1
}

// tree adds the stacks of a CPU profile up.
func tree(p *profile.Profile) *frame {
	root := &frame{name: "all", calls: make(map[string]*frame)}
	last := len(p.SampleType) - 1 // nanoseconds; what is before them counts samples
	for _, s := range p.Sample {
		root.value += s.Value[last]
		at := root
		for _, loc := range slices.Backward(s.Location) {
			for _, line := range slices.Backward(loc.Line) { // inlined functions
				at = at.call(short(line.Function.Name))
				at.value += s.Value[last]
			}
		}
	}
	return root
}

// short leaves out the path of a function's package.
func short(name string) string {
	if strings.Contains(name, "[") { // a type parameter may have a path too
		return name
	}
	return path.Base(name)
}

const (
	width     = 1200.0
	rowHeight = 17
	margin    = 34
	leastPart = 0.002 // narrower frames are left out
	charWidth = 6.6
)

// draw writes the SVG: the root at the bottom.
func draw(w io.Writer, title string, root *frame) error {
	height := root.depth()*rowHeight + margin + 6
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" font-family="monospace" font-size="11">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#fdfcfa"/>`+"\n")
	fmt.Fprintf(&b, `<text x="8" y="21" font-size="15" font-family="sans-serif">%s</text>`+"\n", html.EscapeString(title))
	drawFrame(&b, root, root.value, 0, height-rowHeight-4)
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func drawFrame(b *strings.Builder, f *frame, total int64, x float64, y int) {
	part := float64(f.value) / float64(max(total, 1))
	if part < leastPart {
		return
	}
	frameWidth := part * width
	name := html.EscapeString(f.name)
	fmt.Fprintf(b, `<g><title>%s, %.1f %%</title><rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`,
		name, 100*part, x, y, max(frameWidth-0.5, 0.3), rowHeight-1, color(f.name))
	if room := int((frameWidth - 6) / charWidth); room > 3 {
		label := f.name
		if len(label) > room {
			label = label[:room-1] + "…"
		}
		fmt.Fprintf(b, `<text x="%.1f" y="%d">%s</text>`, x+3, y+12, html.EscapeString(label))
	}
	b.WriteString("</g>\n")
	for _, c := range f.sorted() {
		drawFrame(b, c, total, x, y-rowHeight)
		x += float64(c.value) / float64(max(total, 1)) * width
	}
}

// color tells the kernel's work, the runtime's and the rest apart.
func color(name string) string {
	switch {
	case strings.Contains(name, "Syscall"):
		return "#e58f6b"
	case strings.HasPrefix(name, "runtime."):
		return "#d9d2c3"
	case strings.HasPrefix(name, "http.") || strings.HasPrefix(name, "net.") || strings.HasPrefix(name, "poll.") || strings.HasPrefix(name, "syscall."):
		return "#e9c46a"
	}
	return "#8fbf9f"
}
