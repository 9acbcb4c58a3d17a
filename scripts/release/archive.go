package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// eachFile calls f with the files below dir in the order of their names, and the name and mode that
// they have in archives.
func eachFile(dir, prefix string, f func(file, name string, mode fs.FileMode, size int64) error) error {
	return filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		return f(file, prefix+"/"+filepath.ToSlash(rel), mode, info.Size())
	})
}

// tarGzip writes a .tar.gz of a folder. All files in it have the same time.
func tarGzip(target, dir, prefix string, at time.Time) error {
	return writeTo(target, func(w io.Writer) error {
		compressed := gzip.NewWriter(w)
		archive := tar.NewWriter(compressed)
		err := eachFile(dir, prefix, func(file, name string, mode fs.FileMode, size int64) error {
			header := &tar.Header{Name: name, Mode: int64(mode), Size: size, ModTime: at, Uname: "root", Gname: "root"}
			if err := archive.WriteHeader(header); err != nil {
				return err
			}
			return copyInto(archive, file)
		})
		return errors.Join(err, archive.Close(), compressed.Close())
	})
}

// zipFolder writes a .zip of a folder. All files in it have the same time.
func zipFolder(target, dir, prefix string, at time.Time) error {
	return writeTo(target, func(w io.Writer) error {
		archive := zip.NewWriter(w)
		err := eachFile(dir, prefix, func(file, name string, mode fs.FileMode, _ int64) error {
			header := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: at}
			header.SetMode(mode)
			entry, err := archive.CreateHeader(header)
			if err != nil {
				return err
			}
			return copyInto(entry, file)
		})
		return errors.Join(err, archive.Close())
	})
}

func writeTo(target string, write func(w io.Writer) error) error {
	f, err := os.Create(target)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

func copyInto(w io.Writer, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// setTimes gives all below dir one time of change: packages record it.
func setTimes(dir string, at time.Time) error {
	return filepath.WalkDir(dir, func(file string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(file, at, at)
	})
}
