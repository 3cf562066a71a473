package faulty_test

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"atc/fs/bucket"
	"atc/fs/bucket/faulty"
	"atc/fs/errors"
)

var storm = []faulty.Plan{
	{Op: faulty.Put, Before: 0.1, After: 0.1, Throttle: 0.1, Late: 0.1, Delay: 0.1, MostDelay: time.Millisecond},
	{Before: 0.1, Cut: 0.1, Corrupt: 0.1, Delay: 0.1, MostDelay: time.Millisecond},
}

// outcomes runs the same requests, in an order that differs from run to run, and
// returns how each ended.
func outcomes(t *testing.T, seed uint64) []string {
	f := wrapped(t)
	if err := put(t.Context(), f, "read", "0123456789"); err != nil {
		t.Fatal(err)
	}
	chaos := f.Chaos(seed, storm...)
	ended := make([]string, 100)
	var wg sync.WaitGroup
	for i := range 50 {
		key := fmt.Sprint("key", i)
		wg.Go(func() {
			for n := range 2 {
				ended[2*i+n] = fmt.Sprint(errors.KindOf(put(t.Context(), f, key, "x")))
			}
		})
	}
	wg.Wait()
	for range 50 { // one key, one after the other
		data, err := get(t.Context(), f, "read")
		ended = append(ended, fmt.Sprint(data, errors.KindOf(err)))
	}
	chaos.Calm()
	for i := range 50 {
		if err := put(t.Context(), f, fmt.Sprint("key", i), "x"); err != nil && !errors.Is(errors.Condition, err) {
			t.Errorf("after the storm: %v", err)
		}
	}
	return ended
}

func TestChaosIsReproducible(t *testing.T) {
	first := outcomes(t, 7)
	if again := outcomes(t, 7); !slices.Equal(without(first, "changed meanwhile"), without(again, "changed meanwhile")) {
		t.Errorf("with the same seed\n%v\n%v", first, again)
	}
	if other := outcomes(t, 8); slices.Equal(first, other) {
		t.Error("another seed tells the same story")
	}
}

// without leaves out how a second write of the same object ended, which depends
// on whether a late one has arrived before.
func without(outcomes []string, what string) []string {
	kept := slices.Clone(outcomes)
	for i, o := range kept {
		if o == what {
			kept[i] = errors.Other.String()
		}
	}
	return kept
}

func TestChaosTakesItsShare(t *testing.T) {
	f := wrapped(t)
	chaos := f.Chaos(3, faulty.Plan{Op: faulty.Put, Key: "some/*", Before: 0.25}, faulty.Plan{Key: "some/*", Throttle: 1})
	failed := 0
	for n := range 1000 {
		if err := put(t.Context(), f, fmt.Sprint("some/", n), "x"); err != nil {
			wantKind(t, errors.Unavailable, err)
			failed++
		}
		if n < 20 {
			if err := put(t.Context(), f, fmt.Sprint("other/", n), "x"); err != nil {
				t.Error(err)
			}
		}
	}
	if failed < 200 || failed > 300 {
		t.Errorf("%d of 1000 failed, want a quarter", failed)
	}
	_, err := get(t.Context(), f, "some/0")
	wantKind(t, errors.Unavailable, err)
	if log := chaos.Log(); !strings.Contains(log, fmt.Sprintf("failed before:%d", failed)) || !strings.Contains(log, "get some/0 number 1: throttled") {
		t.Errorf("the log says\n%.300s", log)
	}
	if lines := strings.Count(chaos.Log(), "\n"); lines > 201 {
		t.Errorf("the log has %d lines", lines)
	}
}

func TestNamesWithoutRandomParts(t *testing.T) {
	var ended [2][]string
	for run := range ended {
		f := wrapped(t)
		c := f.Chaos(1, faulty.Plan{Before: 0.5})
		c.Name = func(key string) string { return strings.TrimRight(key, "ab") }
		for range 40 {
			err := put(t.Context(), f, "key"+strings.Repeat("ab"[run:run+1], 3), "x")
			ended[run] = append(ended[run], fmt.Sprint(errors.Is(errors.Unavailable, err)))
		}
	}
	if !slices.Equal(ended[0], ended[1]) {
		t.Errorf("%v and %v", ended[0], ended[1])
	}
}

// A request that hangs ends with its context, with its patience, or with the
// storm.
func TestHanging(t *testing.T) {
	f := wrapped(t)
	chaos := f.Chaos(1, faulty.Plan{Key: "short", Hang: 1, Patience: time.Millisecond}, faulty.Plan{Hang: 1})
	wantKind(t, errors.Unavailable, put(t.Context(), f, "short", "x"))
	errs := make(chan error)
	go func() { errs <- put(t.Context(), f, "long", "x") }()
	select {
	case err := <-errs:
		t.Errorf("it did not hang: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	chaos.Calm()
	wantKind(t, errors.Unavailable, <-errs)
	if err := put(t.Context(), f, "long", "x"); err != nil {
		t.Error(err)
	}
}

// A late write is answered before the store has it, and a condition that held
// then may not hold any more.
func TestLateWrites(t *testing.T) {
	f := wrapped(t)
	i := f.Inject(faulty.Fault{Op: faulty.Put, Times: 2, Late: time.Hour})
	wantKind(t, errors.Unavailable, put(t.Context(), f, "a", "late"))
	wantKind(t, errors.Unavailable, put(t.Context(), f, "b", "late"))
	if _, err := get(t.Context(), f, "a"); !errors.Is(errors.NotExist, err) {
		t.Errorf("it is there already: %v", err)
	}
	if err := put(t.Context(), f, "b", "meanwhile"); err != nil {
		t.Error(err)
	}
	i.Release()
	f.Settle()
	for key, want := range map[string]string{"a": "late", "b": "meanwhile"} {
		if got, err := get(t.Context(), f, key); got != want || err != nil {
			t.Errorf("%s: %q, %v", key, got, err)
		}
	}
}

// A body that is cut is an error of the kind a broken connection has, never an
// object that is shorter.
func TestCutBodies(t *testing.T) {
	f := wrapped(t)
	if err := put(t.Context(), f, "a", "0123456789"); err != nil {
		t.Fatal(err)
	}
	for cut, want := range map[int]string{3: "012", faulty.Middle: "01234", 9: "012345678"} {
		i := f.Inject(faulty.Fault{Cut: cut})
		body, info, err := f.Get(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		body.Close()
		if string(got) != want || info.Size != 10 {
			t.Errorf("cut at %d: %q of %d", cut, got, info.Size)
		}
		wantKind(t, errors.Unavailable, err)
		data, _, err := f.GetRange(t.Context(), "a", 0, 10, "")
		wantKind(t, errors.Unavailable, err)
		if len(data) != 0 {
			t.Errorf("a range with %q and an error", data)
		}
		i.Remove()
	}
	i := f.Inject(faulty.Fault{Cut: 10}) // behind the end
	if got, err := get(t.Context(), f, "a"); got != "0123456789" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	i.Remove()
	throttled := f.Inject(faulty.Fault{Throttle: true, Times: 1})
	wantKind(t, errors.Unavailable, f.Delete(t.Context(), "a"))
	if _, err := f.Bucket.Put(t.Context(), "a", strings.NewReader("x"), bucket.PutOptions{IfNoneMatch: true}); !errors.Is(errors.Condition, err) {
		t.Errorf("a throttled request reached the store: %v", err)
	}
	throttled.Remove()
}
