// Package history keeps the past of one database in the bucket.
//
// A database's folder holds LTX files in the layout of Litestream 0.5, so that
// `litestream restore` can read it without atc:
//
//	<folder>/0000/<min TXID>-<max TXID>.ltx   what was committed, one TXID a file
//	<folder>/0001, 0002/<min>-<max>.ltx       windows of 5 minutes and of an hour, merged
//	<folder>/0009/<1>-<max>.ltx               snapshots
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
// [Log.Compact] merges, [Log.Retain] deletes what the [Policy] no longer keeps,
// [Log.Find] and [Log.LoadAt] go back in time, [Log.WriteTo] and [Log.CopyTo]
// copy a whole database.
//
// Limitations: one file can hold no more than a single PUT of the store, so that
// a database of which more than that would be left compressed gets no snapshot,
// and its files of level 2 stay. A copy that takes longer than Policy.Grace may
// find a file gone.
package history
