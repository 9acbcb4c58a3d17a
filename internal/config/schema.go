package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// schemaNode is a JSON Schema of draft 7, as far as we use it: editors know that draft best.
type schemaNode struct {
	Schema      string                 `json:"$schema,omitempty"`
	Title       string                 `json:"title,omitempty"`
	Description string                 `json:"description,omitempty"`
	Type        any                    `json:"type,omitempty"` // a name or several
	Enum        []string               `json:"enum,omitempty"`
	Pattern     string                 `json:"pattern,omitempty"`
	Minimum     *int64                 `json:"minimum,omitempty"`
	Maximum     *int64                 `json:"maximum,omitempty"`
	Items       *schemaNode            `json:"items,omitempty"`
	MinItems    int                    `json:"minItems,omitempty"`
	Properties  map[string]*schemaNode `json:"properties,omitempty"`
	Additional  *bool                  `json:"additionalProperties,omitempty"` // false: unknown keys are mistakes
	Default     any                    `json:"default,omitempty"`
}

// Patterns of values. They accept all that the parsers do, and catch the common mistakes.
const (
	durationPattern         = `^(0+|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`
	positiveDurationPattern = `^(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`
	sizePattern             = `^[0-9]+( ?([kKmMgG][iI]?)?[bB])?$`
	listenPattern           = `^(unix:///.*[^/]|[^/]*:[0-9]{1,5})$`
)

// textPatterns are for settings, and the items of lists, that are texts of a form.
var textPatterns = map[string]string{
	"listen":                 listenPattern,
	"admin.listen":           `^$|` + listenPattern,
	"upstream.url":           `^([hH][tT][tT][pP][sS]?://[^/?#@]+/?|unix:///.*[^/])$`,
	"upstream.dns_server":    `^$|^[^/]+:[0-9]{1,5}$`,
	"upstream.health.path":   `^$|^/[^# ]*$`,
	"engineio.paths":         `^/(.*/)?$`,
	"recovery.clients.query": `^[A-Za-z0-9_.~-]*$`,
}

// bounds records what Validate requires of a single setting.
type bounds struct {
	choices  map[string][]string // allowed texts
	positive map[string]bool     // durations above 0, numbers from 1
	nonEmpty map[string]bool     // lists
}

// recordBounds records what Validate's rules require.
func recordBounds() *bounds {
	b := &bounds{choices: map[string][]string{}, positive: map[string]bool{}, nonEmpty: map[string]bool{}}
	c := Default()
	c.validateInto(&validator{bounds: b})
	// An empty list is a mistake only where Validate rejects it independently of other settings.
	for _, s := range settings(&c) {
		if s.value.Kind() != reflect.Slice || s.value.Len() == 0 {
			continue
		}
		old := reflect.ValueOf(s.value.Interface())
		s.value.SetZero()
		b.nonEmpty[s.key] = c.Validate() != nil
		s.value.Set(old)
	}
	return b
}

// Schema returns a JSON Schema of the YAML file. example is the text of config.example.yaml: its
// comments become the descriptions. Rules that involve several settings are left to -check.
func Schema(example []byte) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(example, &document); err != nil {
		return nil, fmt.Errorf("config: the example: %w", err)
	}
	if len(document.Content) == 0 {
		return nil, fmt.Errorf("config: the example is empty")
	}
	c := Default()
	root := schemaOf(recordBounds(), "", reflect.ValueOf(&c).Elem(), document.Content[0])
	root.Schema = "http://json-schema.org/draft-07/schema#"
	root.Title = "holdfast.yaml"
	root.Description = "The configuration file of holdfast. `holdfast -check -config FILE` checks more than this schema can."
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(root); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// schemaOf describes a section. A heading whose keys are all commented out is null.
func schemaOf(b *bounds, prefix string, section reflect.Value, example *yaml.Node) *schemaNode {
	node := &schemaNode{Type: []string{"object", "null"}, Properties: map[string]*schemaNode{}, Additional: new(bool)}
	for field, value := range section.Fields() {
		name := yamlName(field)
		comment, sub := exampleOf(example, name)
		var child *schemaNode
		if value.Kind() == reflect.Struct {
			child = schemaOf(b, prefix+name+".", value, sub)
		} else {
			s := setting{key: prefix + name, value: value, live: field.Tag.Get("reload") == "live"}
			child = schemaOfSetting(b, s)
			if s.live {
				comment = strings.TrimSpace(comment + " Can change while holdfast runs.")
			}
		}
		child.Description = comment
		node.Properties[name] = child
	}
	return node
}

// exampleOf finds a key of a section of the example, and the text of its comment.
func exampleOf(section *yaml.Node, name string) (comment string, value *yaml.Node) {
	if section == nil {
		return "", nil
	}
	for i := 0; i+1 < len(section.Content); i += 2 {
		if section.Content[i].Value != name {
			continue
		}
		// Only the last block is about the key: those before it are about the file.
		lines := strings.Split(section.Content[i].HeadComment, "\n")
		if blank := slices.Index(lines, ""); blank >= 0 {
			lines = lines[blank+1:]
		}
		for j, line := range lines {
			lines[j] = strings.TrimPrefix(strings.TrimPrefix(line, "#"), " ")
		}
		return strings.Join(lines, " "), section.Content[i+1]
	}
	return "", nil
}

func schemaOfSetting(b *bounds, s setting) *schemaNode {
	node := &schemaNode{Type: "string", Pattern: textPatterns[s.key], Enum: slices.Clone(b.choices[s.key]), Default: s.format()}
	if s.key == "upstream.protocol" { // in YAML a number needs no quotes
		least, most := int64(3), int64(4)
		node.Type, node.Minimum, node.Maximum = []string{"integer", "string"}, &least, &most
		node.Pattern, node.Enum = "^("+strings.Join(node.Enum, "|")+")$", nil
	}
	switch v := s.value.Interface().(type) {
	case Size:
		node.Type, node.Pattern, node.Minimum = []string{"integer", "string"}, sizePattern, new(int64)
		if v == 0 {
			node.Default = 0
		}
	case time.Duration:
		// Only 0 needs no unit.
		node.Type, node.Pattern, node.Minimum, node.Maximum = []string{"integer", "string"}, durationPattern, new(int64), new(int64)
		if b.positive[s.key] {
			node.Type, node.Pattern, node.Minimum, node.Maximum = "string", positiveDurationPattern, nil, nil
		}
		if v == 0 {
			node.Default = 0
		}
	case int:
		least, most := int64(0), int64(math.MaxInt32)
		if b.positive[s.key] {
			least = 1
		}
		node.Type, node.Minimum, node.Maximum, node.Default = "integer", &least, &most, v
	case bool:
		node.Type, node.Default = "boolean", v
	case URLs:
		node.Type, node.MinItems = []string{"string", "array"}, 1
		node.Items = &schemaNode{Type: "string", Pattern: textPatterns[s.key]}
	case []string:
		node.Type, node.Pattern, node.Default = "array", "", v
		node.Items = &schemaNode{Type: "string", Pattern: textPatterns[s.key]}
		if b.nonEmpty[s.key] {
			node.MinItems = 1
		}
	}
	return node
}
