package history

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"atc/fs/errors"
)

func file(level int, first, last TXID) File {
	return File{FileRef: FileRef{Level: level, Min: first, Max: last}, Size: 1}
}

func names(files []File) string {
	var all []string
	for _, f := range files {
		all = append(all, f.name()[3:5]+strings.TrimLeft(f.Min.String(), "0")+"-"+strings.TrimLeft(f.Max.String(), "0"))
	}
	return strings.Join(all, " ")
}

func TestPlan(t *testing.T) {
	usual := []File{
		file(0, 1, 1), file(0, 7, 7), file(0, 8, 8), file(0, 9, 9),
		file(1, 2, 3), file(1, 4, 6), file(1, 7, 8), file(2, 2, 6), file(9, 1, 6),
	}
	overlap := []File{file(0, 1, 1), file(1, 2, 4), file(1, 3, 6), file(1, 5, 9), file(2, 2, 5)}
	for _, c := range []struct {
		what  string
		files []File
		to    TXID
		want  string
	}{
		{"everything", usual, 9, "9/1-6 1/7-8 0/9-9"},
		{"inside a window", usual, 7, "9/1-6 0/7-7"},
		{"a snapshot's end", usual, 6, "9/1-6"},
		{"before the snapshot", usual, 3, "0/1-1 1/2-3"},
		{"inside what was merged", usual, 5, "nearest that can be restored: 0000000000000003, 0000000000000006"},
		{"behind the end", usual, 10, "nearest that can be restored: 0000000000000009"},
		{"nothing", nil, 1, "nothing can be restored"},
		{"transaction 0", usual, 0, "nearest that can be restored: 0000000000000001"},
		{"overlaps", overlap, 9, "0/1-1 2/2-5 1/5-9"},
		{"overlaps, short of the end", overlap, 6, "0/1-1 2/2-5 1/3-6"},
		{"a gap", []File{file(0, 1, 1), file(0, 3, 3)}, 3, "nearest that can be restored: 0000000000000001"},
		{"a beginning on level 1", []File{file(1, 1, 4), file(0, 5, 5)}, 5, "1/1-4 0/5-5"},
		{"the newest of two snapshots", []File{file(9, 1, 4), file(9, 1, 6), file(1, 5, 7)}, 7, "9/1-6 1/5-7"},
	} {
		plan, err := Plan(c.files, c.to)
		got := names(plan)
		if err != nil {
			if got = err.Error(); !errors.Is(errors.NotExist, err) {
				t.Errorf("%s: %v", c.what, err)
			}
		}
		if got != c.want && !(err != nil && strings.Contains(got, c.want)) {
			t.Errorf("%s: got %s, want %s", c.what, got, c.want)
		}
	}
}

// reachable is the oracle: transactions are added until no file adds another.
func reachable(files []File, to TXID) map[TXID]bool {
	found := map[TXID]bool{0: true}
	for grown := true; grown; {
		grown = false
		for _, f := range files {
			for at := f.Min - 1; at < f.Max; at++ {
				if found[at] && f.Max <= to && !found[f.Max] {
					found[f.Max], grown = true, true
				}
			}
		}
	}
	return found
}

func TestPlanAgainstOracle(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 20_000 {
		const last = 12
		var files []File
		for range random.IntN(14) {
			first := TXID(1 + random.IntN(last))
			f := file(random.IntN(levels), first, first+TXID(random.IntN(int(last-first+1))))
			if f.Level == 0 {
				f.Max = f.Min
			}
			if f.Level == snapshotLevel {
				f.Min = 1
			}
			files = append(files, f)
		}
		for to := TXID(1); to <= last; to++ {
			plan, err := Plan(files, to)
			if (err == nil) != reachable(files, to)[to] {
				t.Fatalf("%s to %d: %s, %v", names(files), to, names(plan), err)
			}
			at := TXID(0)
			for i, f := range plan {
				if f.Min > at+1 || f.Max <= at || f.Max > to || !slices.Contains(files, f) || i > 0 && f.Level == snapshotLevel {
					t.Fatalf("%s to %d: no plan: %s", names(files), to, names(plan))
				}
				at = f.Max
			}
			if err == nil && at != to {
				t.Fatalf("%s to %d: %s ends at %d", names(files), to, names(plan), at)
			}
		}
		var got, want []TXID
		for _, f := range restorable(files) {
			got = append(got, f.Max)
		}
		for to := range reachable(files, last) {
			if to != 0 {
				want = append(want, to)
			}
		}
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Fatalf("%s: %v can be restored, want %v", names(files), got, want)
		}
	}
}

func TestForeignNames(t *testing.T) {
	const file = "0000000000000002-0000000000000003.ltx"
	for name, want := range map[string]bool{
		"0000/" + file: true, "0008/" + file: true,
		"0009/0000000000000001-0000000000000003.ltx": true,
		"0009/" + file: false, "000a/" + file: false, "00000/" + file: false, "0/" + file: false, "+001/" + file: false,
		"0000/x/" + file: false, "0000/" + file + ".tmp": false, "0001/0000000000000003-0000000000000002.ltx": false,
		"0001/0000000000000000-0000000000000002.ltx": false, "0000/000000000000000A-000000000000000A.ltx": false,
		"atc/0000000000000001.index": false, "0000": false, "": false,
	} {
		if ref, ok := parseName(name); ok != want {
			t.Errorf("%s: %+v %v", name, ref, ok)
		}
	}
}

func FuzzParseName(f *testing.F) {
	f.Add("0001/0000000000000002-0000000000000003.ltx")
	f.Add("atc/0000000000000001.index")
	f.Fuzz(func(t *testing.T, name string) {
		if ref, ok := parseName(name); ok && (ref.name() != name || ref.Min == 0 || ref.Max < ref.Min || ref.Level > 9) {
			t.Errorf("%q was read as %+v", name, ref)
		}
		if txid, ok := parseSidecar(name, ".index"); ok && "atc/"+txid.String()+".index" != name {
			t.Errorf("%q was read as %s", name, txid)
		}
	})
}
