package deploy_test

import "io/fs"

// ignoring is a file system without the files and folders whose path ignored reports.
type ignoring struct {
	fs.FS
	ignored func(name string) bool
}

func (f ignoring) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(f.FS, name)
	kept := entries[:0]
	for _, e := range entries {
		path := e.Name()
		if name != "." {
			path = name + "/" + path
		}
		if !f.ignored(path) && (e.IsDir() || e.Type().IsRegular()) {
			kept = append(kept, e)
		}
	}
	return kept, err
}
