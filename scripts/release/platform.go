package main

import (
	"debug/elf"
	"debug/macho"
	"debug/pe"
	"fmt"
	"runtime"
	"slices"
	"strings"
)

// platform is one that releases have a binary for, with its names in other systems.
type platform struct {
	goos, goarch, goarm string
	nodeOS, nodeArch    string
	deb, rpm            string // "": no such packages
}

var platforms = []platform{
	{"linux", "amd64", "", "linux", "x64", "amd64", "x86_64"},
	{"linux", "arm64", "", "linux", "arm64", "arm64", "aarch64"},
	{"linux", "arm", "6", "linux", "arm", "armhf", "armv6hl"},
	{"darwin", "amd64", "", "darwin", "x64", "", ""},
	{"darwin", "arm64", "", "darwin", "arm64", "", ""},
	{"windows", "amd64", "", "win32", "x64", "", ""},
	{"windows", "arm64", "", "win32", "arm64", "", ""},
}

func (p platform) name() string { return p.goos + "-" + p.goarch }

func (p platform) binary() string {
	if p.goos == "windows" {
		return "holdfast.exe"
	}
	return "holdfast"
}

// npmPackage is the name of the package that has the binary.
func (p platform) npmPackage() string { return "@holdfast/" + p.nodeOS + "-" + p.nodeArch }

func choose(names string) ([]platform, error) {
	switch names {
	case "all":
		return platforms, nil
	case "none": // only what is the same for all, such as the chart
		return nil, nil
	case "host":
		names = runtime.GOOS + "-" + runtime.GOARCH
	}
	var list []platform
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(platforms, func(p platform) bool { return p.name() == name })
		if i < 0 {
			return nil, fmt.Errorf("no releases are made for the platform %q", name)
		}
		list = append(list, platforms[i])
	}
	return list, nil
}

// checkMachine looks into a binary: is it one for the platform?
func checkMachine(file string, p platform) error {
	var found string
	switch p.goos {
	case "linux":
		f, err := elf.Open(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		defer func() { _ = f.Close() }() // it was only read
		found = map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64", elf.EM_ARM: "arm"}[f.Machine]
		if libraries, err := f.ImportedLibraries(); err != nil || len(libraries) > 0 {
			return fmt.Errorf("%s is not static: it needs %v (%w)", file, libraries, err)
		}
	case "darwin":
		f, err := macho.Open(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		defer func() { _ = f.Close() }() // it was only read
		found = map[macho.Cpu]string{macho.CpuAmd64: "amd64", macho.CpuArm64: "arm64"}[f.Cpu]
	case "windows":
		f, err := pe.Open(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		defer func() { _ = f.Close() }() // it was only read
		found = map[uint16]string{pe.IMAGE_FILE_MACHINE_AMD64: "amd64", pe.IMAGE_FILE_MACHINE_ARM64: "arm64"}[f.Machine]
	}
	if found != p.goarch {
		return fmt.Errorf("%s is for %q; want %s", file, found, p.goarch)
	}
	return nil
}
