package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// maxFileBytes is far more than any real file needs. It keeps a wrong path, such
// as a device or a log, from filling the memory.
const maxFileBytes = 1 << 20

// applyFile applies the file at path. source is the flag or the variable that
// named the file.
func (l *loader) applyFile(path, source string) {
	data, err := readFile(path)
	if err != nil {
		l.fail(source, "", fmt.Sprintf("found %q: %v; allowed: a readable YAML file", path, err))
		return
	}
	l.applyYAML(path, data)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		// The caller's message contains the path.
		if pathError, ok := errors.AsType[*os.PathError](err); ok {
			err = pathError.Err
		}
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("larger than %v", Size(maxFileBytes))
	}
	return data, nil
}

// yamlErrorLine finds the line number in an error of package yaml, which has no
// field for it.
var yamlErrorLine = regexp.MustCompile(`^yaml: line (\d+): (.*)`)

// applyYAML applies data, the content of the file name.
func (l *loader) applyYAML(name string, data []byte) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		return // empty, or comments only
	}
	if err == nil {
		err = decoder.Decode(&second)
		if err == nil {
			l.fail(at(name, second.Line), "", "found a second YAML document; allowed: one")
			return
		}
	}
	if !errors.Is(err, io.EOF) {
		source, message := name, strings.TrimPrefix(err.Error(), "yaml: ")
		if m := yamlErrorLine.FindStringSubmatch(err.Error()); m != nil {
			source, message = name+":"+m[1], m[2]
		}
		l.fail(source, "", "invalid YAML: "+message)
		return
	}
	l.applyMapping(name, document.Content[0], "", reflect.ValueOf(&l.config).Elem())
}

func at(name string, line int) string { return name + ":" + strconv.Itoa(line) }

// applyMapping sets the fields of section, a struct, from a YAML mapping.
// prefix is the section's key and a dot, or "" for the whole file.
func (l *loader) applyMapping(name string, node *yaml.Node, prefix string, section reflect.Value) {
	node = resolved(node)
	if isNull(node) {
		return // a heading whose keys are all commented out
	}
	if node.Kind != yaml.MappingNode {
		l.fail(at(name, node.Line), strings.TrimSuffix(prefix, "."),
			fmt.Sprintf("found %s; allowed: a section with the keys %s", found(node), strings.Join(names(section), ", ")))
		return
	}
	lines := make(map[string]int, len(node.Content)/2) // where each key came first
	for i := 0; i+1 < len(node.Content); i += 2 {
		k, value := resolved(node.Content[i]), resolved(node.Content[i+1])
		source, key := at(name, node.Content[i].Line), prefix+printable(k.Value)
		if k.Kind != yaml.ScalarNode {
			l.fail(source, strings.TrimSuffix(prefix, "."), fmt.Sprintf("found %s in place of a key", found(k)))
			continue
		}
		if first, ok := lines[k.Value]; ok {
			l.fail(source, key, fmt.Sprintf("found twice, first on line %d; allowed: once", first))
			continue
		}
		lines[k.Value] = node.Content[i].Line
		target, ok := fieldByName(section, k.Value)
		switch {
		case !ok:
			l.fail(source, key, "unknown key"+l.hint(prefix, k.Value, section))
		case target.Kind() == reflect.Struct:
			l.applyMapping(name, value, key+".", target)
		default:
			l.applyNode(name, setting{key: key, value: target}, value)
		}
	}
}

// applyNode sets one setting from its YAML value.
func (l *loader) applyNode(name string, s setting, node *yaml.Node) {
	source := at(name, node.Line)
	_, isList := reflect.TypeAssert[[]string](s.value)
	_, isURLs := reflect.TypeAssert[URLs](s.value)
	if node.Kind == yaml.SequenceNode && (isList || isURLs) {
		list := make([]string, 0, len(node.Content))
		for _, item := range node.Content {
			item = resolved(item)
			if item.Kind != yaml.ScalarNode || isNull(item) {
				l.fail(at(name, item.Line), s.key, fmt.Sprintf("found %s in the list; allowed: texts", found(item)))
				l.bad[s.key] = true
				return
			}
			list = append(list, item.Value)
		}
		s.value.Set(reflect.ValueOf(list).Convert(s.value.Type()))
		l.sources[s.key] = source
		return
	}
	if node.Kind != yaml.ScalarNode || isList || isNull(node) {
		l.fail(source, s.key, fmt.Sprintf("found %s; allowed: %s", found(node), allowedFor(s.value)))
		l.bad[s.key] = true
		return
	}
	if isURLs { // a text in a file is one URL, although a path may contain a comma
		s.value.Set(reflect.ValueOf(URLs{node.Value}))
		l.sources[s.key] = source
		delete(l.bad, s.key)
		return
	}
	l.apply(source, s, node.Value)
}

// printable quotes a key that would not print as one plain line.
func printable(key string) string {
	if quoted := strconv.Quote(key); key == "" || quoted[1:len(quoted)-1] != key {
		return quoted
	}
	return key
}

// resolved follows an alias.
func resolved(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
}

// found describes a YAML value of the wrong kind.
func found(node *yaml.Node) string {
	switch {
	case node.Kind == yaml.MappingNode:
		return "a section"
	case node.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(node):
		return "no value"
	default:
		return strconv.Quote(node.Value)
	}
}

func names(section reflect.Value) []string {
	var list []string
	for field := range section.Fields() {
		list = append(list, yamlName(field))
	}
	return list
}

func fieldByName(section reflect.Value, name string) (reflect.Value, bool) {
	for field, value := range section.Fields() {
		if yamlName(field) == name {
			return value, true
		}
	}
	return reflect.Value{}, false
}

// hint suggests what an unknown key may mean: a neighbour with a similar
// spelling, or the same name in another section.
func (l *loader) hint(prefix, name string, section reflect.Value) string {
	if hint := didYouMean(name, names(section)); hint != "" {
		return hint
	}
	for _, s := range settings(&l.config) {
		if s.key != prefix+name && strings.HasSuffix("."+s.key, "."+name) {
			return fmt.Sprintf("; did you mean %s?", s.key)
		}
	}
	return "; allowed: " + strings.Join(names(section), ", ")
}

// YAML returns the configuration as a file that loads to the same settings.
// Settings in sources, which may be nil, have their source as a comment.
func (c Config) YAML(sources Sources) []byte {
	root := mapping("", reflect.ValueOf(&c).Elem(), sources)
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	err := errors.Join(encoder.Encode(root), encoder.Close())
	if err != nil {
		// Impossible: a Buffer does not fail, and the nodes are valid.
		panic("config: " + err.Error())
	}
	return b.Bytes()
}

func mapping(prefix string, section reflect.Value, sources Sources) *yaml.Node {
	node := &yaml.Node{Kind: yaml.MappingNode}
	for field, value := range section.Fields() {
		key := prefix + yamlName(field)
		k := &yaml.Node{Kind: yaml.ScalarNode, Value: yamlName(field)}
		v := leaf(setting{key: key, value: value})
		if value.Kind() == reflect.Struct {
			v = mapping(key+".", value, sources)
		}
		if source := sources[key]; source != "" {
			v.LineComment = source
		}
		node.Content = append(node.Content, k, v)
	}
	return node
}

func leaf(s setting) *yaml.Node {
	list, ok := reflect.TypeAssert[[]string](s.value)
	if urls, isURLs := reflect.TypeAssert[URLs](s.value); isURLs {
		if len(urls) == 1 {
			return scalar(urls[0])
		}
		list, ok = urls, true
	}
	if ok {
		node := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, item := range list {
			node.Content = append(node.Content, scalar(item))
		}
		return node
	}
	if s.value.Kind() == reflect.String {
		return scalar(s.value.String())
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: s.format()}
}

// scalar is a string, which the encoder quotes if YAML would read it as another type.
func scalar(text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
}

// hidden replaces secrets in what is shown.
const hidden = "(hidden)"

// Redacted returns c without its secret and the passwords in URLs.
func (c Config) Redacted() Config {
	if c.Cluster.Secret != "" {
		c.Cluster.Secret = hidden
	}
	peers := make([]string, len(c.Cluster.Peers))
	for i, p := range c.Cluster.Peers {
		peers[i] = redactedPeer(p)
	}
	c.Cluster.Peers = peers
	return c
}
