package bucket_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"atc/fs/bucket"
	"atc/fs/errors"
)

// What other processes do to a directory: they write, they are killed, they
// count on its conditions. The processes are this test binary.

// The variables that make it one, and what it then does.
const (
	writerVariable = "ATC_TEST_BUCKET_DIR"
	taskVariable   = "ATC_TEST_BUCKET_TASK"
)

// process starts this test binary with a task in dir.
func process(t *testing.T, dir, task string) (cmd *exec.Cmd, lines *bufio.Scanner) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerVariable+"="+dir, taskVariable+"="+task)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd, bufio.NewScanner(out)
}

// runTask is the other process. It prints a line for each step done.
func runTask(dir string) error {
	b, err := bucket.Open(noTest(), "file://"+dir)
	if err != nil {
		return err
	}
	task, n, _ := strings.Cut(os.Getenv(taskVariable), " ")
	count, _ := strconv.Atoi(n)
	switch task {
	case "write":
		for i := uint64(0); ; i++ {
			body, opts := checked(rand.Uint64())
			if _, err := b.Put(noTest(), fmt.Sprintf("db/%d/%d", i%3, i%7), body, opts); err != nil {
				return err
			}
			if i%5 == 4 {
				if err := b.Delete(noTest(), fmt.Sprintf("db/%d/%d", (i-2)%3, (i-2)%7)); err != nil {
					return err
				}
			}
			fmt.Println(i)
		}
	case "count":
		for range count {
			if err := increment(b, "counter"); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("unknown task %q", task)
}

// checked makes a body that carries its own checksum, and the same checksum as
// metadata.
func checked(seed uint64) (*bytes.Reader, bucket.PutOptions) {
	data := make([]byte, 8+seed%60_000)
	rng := rand.NewPCG(seed, seed)
	for i := 8; i+8 <= len(data); i += 8 {
		binary.LittleEndian.PutUint64(data[i:], rng.Uint64())
	}
	sum := xxhash.Sum64(data[8:])
	binary.LittleEndian.PutUint64(data, sum)
	return bytes.NewReader(data), bucket.PutOptions{Meta: map[string]string{"sum": fmt.Sprint(sum)}}
}

// increment adds one to the number that an object holds.
func increment(b bucket.Bucket, key string) error {
	for {
		r, info, err := b.Get(noTest(), key)
		if err != nil {
			return err
		}
		data, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(data))
		if err != nil {
			return err
		}
		_, err = b.Put(noTest(), key, strings.NewReader(strconv.Itoa(n+1)), bucket.PutOptions{IfMatch: info.ETag})
		if err == nil || !errors.Is(errors.Condition, err) {
			return err
		}
	}
}

func TestKilledWriterLeavesWholeObjects(t *testing.T) {
	dir := t.TempDir()
	seen := 0
	for round := range 25 {
		cmd, lines := process(t, dir, "write")
		if !lines.Scan() {
			t.Fatal("the writer wrote nothing")
		}
		// At any point of whatever it does next.
		time.Sleep(rand.N(15 * time.Millisecond))
		cmd.Process.Kill()
		cmd.Wait()

		b := open(t, "file://"+dir)
		if left, err := os.ReadDir(filepath.Join(dir, ".atc/tmp")); err != nil || len(left) > 0 {
			t.Fatalf("round %d: temporary files are left: %v, %v", round, left, err)
		}
		for e, err := range b.List(t.Context(), "", bucket.ListOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			seen++
			r, info, err := b.Get(t.Context(), e.Key)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			r.Close()
			if err != nil || len(data) < 8 {
				t.Fatalf("round %d: %s has %d bytes, %v", round, e.Key, len(data), err)
			}
			sum := binary.LittleEndian.Uint64(data)
			if xxhash.Sum64(data[8:]) != sum || info.Meta["sum"] != fmt.Sprint(sum) {
				t.Fatalf("round %d: %s is not whole: %d bytes, metadata %v", round, e.Key, len(data), info.Meta)
			}
		}
	}
	if seen == 0 {
		t.Fatal("no object was ever there")
	}
}

func TestProcessesCountTogether(t *testing.T) {
	const processes, each = 3, 30
	dir := t.TempDir()
	b := open(t, "file://"+dir)
	if _, err := b.Put(t.Context(), "counter", strings.NewReader("0"), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	var all []*exec.Cmd
	for range processes {
		cmd, _ := process(t, dir, fmt.Sprint("count ", each))
		all = append(all, cmd)
	}
	for range each {
		if err := increment(b, "counter"); err != nil {
			t.Fatal(err)
		}
	}
	for _, cmd := range all {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	data, _, err := b.GetRange(t.Context(), "counter", 0, 100, "")
	if err != nil || string(data) != fmt.Sprint((processes+1)*each) {
		t.Fatalf("counted to %s, %v", data, err)
	}
}
