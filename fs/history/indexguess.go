package history

// This file defines the guess: where a page probably is, known before its index
// block is here. With it the page's range is read side by side with the block,
// which saves a cold reader a round trip; what arrives is only believed once the
// block has named its place and hash.

// group is where the pages of a run of an index object lie, most of them at
// least: in one file, close together. Length 0 stands for a run that does not.
type group struct {
	file   uint32 // in Index.files
	offset int64
	length uint32
}

const (
	// maxGroupBytes and maxGroupPages bound a run, so that a guess costs little
	// more than the page.
	maxGroupBytes = 128 << 10
	maxGroupPages = 32
	// groupSlack is how many bytes a group may span beyond its own frames.
	groupSlack = 32 << 10
)

// GroupPages is how many pages, aligned, a guess is about.
func GroupPages(pageSize int) uint32 {
	return uint32(max(1, min(maxGroupPages, maxGroupBytes/pageSize)))
}

// Guess says where a page and its aligned neighbours probably are, while the
// index block that knows is not in memory. It reports false where Lookup needs
// no request, and where the neighbours are scattered.
func (x *Index) Guess(page uint32) (file FileRef, offset, length int64, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, _, missing, _ := x.slot(page); missing == nil {
		return FileRef{}, 0, 0, false
	}
	n := (page - 1) / GroupPages(x.pageSize)
	if int(n) >= len(x.base.groups) || x.base.groups[n].length == 0 {
		return FileRef{}, 0, 0, false
	}
	g := x.base.groups[n]
	return x.files[g.file], g.offset, int64(g.length), true
}

// groupOf finds the file that most of some pages are in, and the range there.
func groupOf(slots []slot) group {
	count := make(map[uint32]int)
	var best uint32
	for _, s := range slots {
		if count[s.file]++; count[s.file] > count[best] {
			best = s.file
		}
	}
	if 2*count[best] < len(slots) || len(slots) == 0 {
		return group{}
	}
	var begin, end, sum int64
	for _, s := range slots {
		if s.file != best {
			continue
		}
		if sum == 0 || s.Offset < begin {
			begin = s.Offset
		}
		end = max(end, s.Offset+int64(s.Length))
		sum += int64(s.Length)
	}
	if end-begin > 2*sum+groupSlack {
		return group{}
	}
	return group{best, begin, uint32(end - begin)}
}
