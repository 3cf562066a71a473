// Package history keeps the past of one database in the bucket.
//
// A database's folder holds LTX files in the layout of Litestream 0.5, so that
// `litestream restore` can read it without atc:
//
//	<folder>/0000/<min TXID>-<max TXID>.ltx   what was committed, one TXID a file
//	<folder>/atc/<TXID>.head                  what a cold reader fetches: position, changes, hot pack
//	<folder>/atc/<TXID>.index                 where each page was at a TXID, in blocks
//
// The LTX files are the truth and the log is the fence: a file is only ever
// created, never replaced, so of two writers at the same TXID one learns that it
// has lost. Everything below atc/ is derived from them and can be rebuilt.
//
// [Log] appends, loads and saves; [Index] finds the place of a page, or guesses
// it ([Index.Guess]) while it is not known yet; [Place] names the bytes to read
// and the hash that they must have; [Index.HotPages] are the pages that came with
// the head. A file each: head.go and headdecode.go have the head's format,
// indexobject.go that of the index object, hot.go that of the hot pack.
//
// Limitations: files are not compacted and never deleted yet, and one file can
// hold no more than a single PUT of the store.
package history
