package pages

import "container/list"

// This file defines which pages a File keeps: those that were used last.

// cache holds at most limit pages. File.mu protects it.
type cache struct {
	limit int
	pages map[uint32]*list.Element // whose value is a cached
	used  list.List                // most recently used first
}

type cached struct {
	page uint32
	data []byte
}

func (c *cache) has(page uint32) bool { return c.pages[page] != nil }

func (c *cache) get(page uint32) []byte {
	e := c.pages[page]
	if e == nil {
		return nil
	}
	c.used.MoveToFront(e)
	return e.Value.(cached).data
}

func (c *cache) put(page uint32, data []byte) {
	if c.pages == nil {
		c.pages = make(map[uint32]*list.Element)
	}
	if c.has(page) {
		return
	}
	c.pages[page] = c.used.PushFront(cached{page, data})
	if len(c.pages) > c.limit {
		last := c.used.Back()
		c.used.Remove(last)
		delete(c.pages, last.Value.(cached).page)
	}
}
