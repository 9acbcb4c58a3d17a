package main

import (
	"debug/buildinfo"
	"strings"
	"time"
)

// sbom is a bill of materials by CycloneDX 1.6, as far as a Go binary tells what it is made of.
type sbom struct {
	Schema    string      `json:"$schema"`
	Format    string      `json:"bomFormat"`
	Spec      string      `json:"specVersion"`
	Version   int         `json:"version"`
	Metadata  metadata    `json:"metadata"`
	Component []component `json:"components"`
}

type metadata struct {
	Timestamp string     `json:"timestamp"`
	Component component  `json:"component"`
	Property  []property `json:"properties"`
}

type component struct {
	Type    string    `json:"type"`
	Ref     string    `json:"bom-ref"`
	Name    string    `json:"name"`
	Version string    `json:"version"`
	PURL    string    `json:"purl"`
	License []license `json:"licenses,omitempty"`
}

type license struct {
	License struct {
		ID string `json:"id"`
	} `json:"license"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// writeSBOM lists the modules that a binary contains, as it records them itself.
func writeSBOM(r *release, file, binary string, p platform) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return err
	}
	main := library(info.Main.Path, r.version)
	main.Type = "application"
	main.License = make([]license, 1)
	main.License[0].License.ID = "MIT"
	bom := sbom{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", Spec: "1.6", Version: 1,
		Metadata: metadata{
			Timestamp: r.date.Format(time.RFC3339),
			Component: main,
			Property: []property{
				{"holdfast:commit", r.commit},
				{"holdfast:platform", p.name()},
				{"holdfast:go", info.GoVersion},
			},
		},
		Component: []component{library("std", strings.TrimPrefix(info.GoVersion, "go"))},
	}
	for _, m := range info.Deps { // sorted
		if m.Replace != nil {
			m = m.Replace
		}
		bom.Component = append(bom.Component, library(m.Path, m.Version))
	}
	return writeJSON(file, bom)
}

func library(path, version string) component {
	purl := "pkg:golang/" + path + "@" + version
	return component{Type: "library", Ref: purl, Name: path, Version: version, PURL: purl}
}
