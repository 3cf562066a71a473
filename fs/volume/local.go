package volume

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/superfly/ltx"
)

// This file defines what is remembered locally of a tenant between two runs, so
// that its local files can be trusted, or not.

// localState is the file local.json in a tenant's folder of the cache.
type localState struct {
	Epoch   uint64 `json:"epoch"`   // of the ownership that the files belong to
	Session string `json:"session"` // the run that wrote this, which may be about to take the tenant in the next one
	Boot    string `json:"boot"`    // boot ID of that run
	Ready   bool   `json:"ready"`   // the tree was laid out whole
	Clean   bool   `json:"clean"`   // everything was shipped and synced, and the tenant released

	Databases map[string]localDatabase `json:"databases,omitempty"` // by folder
	Contents  map[uint64]string        `json:"contents,omitempty"`  // inode → ID of a plain file's content
}

type localDatabase struct {
	Inode uint64   `json:"inode"`
	TXID  ltx.TXID `json:"txid,omitempty"` // where the local file stands, if Clean
}

func readLocal(dir string) (localState, error) {
	var s localState
	b, err := os.ReadFile(filepath.Join(dir, "local.json"))
	if os.IsNotExist(err) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read local state: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		s = localState{} // not whole, as after a loss of power: nothing is known
	}
	if s.Databases == nil {
		s.Databases = make(map[string]localDatabase)
	}
	if s.Contents == nil {
		s.Contents = make(map[uint64]string)
	}
	return s, nil
}

func (s localState) write(dir string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode local state: %w", err)
	}
	if err := writeFile(filepath.Join(dir, "local.json"), b); err != nil {
		return fmt.Errorf("write local state: %w", err)
	}
	return nil
}

// writeFile replaces a file as a whole and synced.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(b); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
