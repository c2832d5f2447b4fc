package gone

import (
	"cmp"
	"encoding/json"
)

// A page is part of a node's [Status] as another node is told of it: with many ids it has
// to go in several answers. What is no list is on the first one.
type page struct {
	Status
	Next *place `json:",omitempty"` // where the next page begins; nil: this is the last
}

// A place is how far the lists of a status have been told. It does not depend on what
// comes and goes between two pages.
type place struct {
	ID   []byte // of the last tenure
	Addr string // of the last link
	Past int    // number of the last tenure that has ended; 0: none was told
}

// pageBytes bounds the lists of a page. With the rest it stays below what every node
// takes at its desk.
const pageBytes = 48 << 10

// tenuresMost is more tenures than fit on a page.
const tenuresMost = pageBytes / 100

// pagesMost bounds the pages that are asked of one node, which are enough for some 500,000
// tenures: the node may not come to an end.
const pagesMost = 4096

// about is the page of this node's status that begins at a place.
func (g *Gone) about(from *place) *page {
	p := &page{Next: cmp.Or(from, &place{})}
	if len(p.Next.ID) == 0 && p.Next.Addr == "" && p.Next.Past == 0 {
		p.Status = g.summary()
	}
	all := g.list(Status{}, string(p.Next.ID), tenuresMost)
	p.Time = all.Time
	room := pageBytes
	for _, t := range all.Tenures {
		if fits(t, &room) {
			p.Tenures, p.Next.ID = append(p.Tenures, t), []byte(t.ID)
		}
	}
	for _, l := range all.Links {
		if l.Addr > p.Next.Addr && fits(l, &room) {
			p.Links, p.Next.Addr = append(p.Links, l), l.Addr
		}
	}
	for _, t := range all.Past {
		if (p.Next.Past == 0 || t.number < p.Next.Past) && fits(t, &room) {
			p.Past, p.Next.Past = append(p.Past, t), t.number
		}
	}
	if room >= 0 {
		p.Next = nil
	}
	return p
}

// fits takes the room that an entry needs, if that is left. Once something did not fit
// nothing does, so that each list is told in order.
func fits(entry any, room *int) bool {
	if *room >= 0 {
		data, _ := json.Marshal(entry)
		*room -= len(data) + 1
	}
	return *room >= 0
}

// addTo adds what a page tells to what was told before.
func (p *page) addTo(s *Status) {
	if s.Time.IsZero() {
		*s = p.Status
		return
	}
	s.Time = p.Time
	s.Tenures, s.Links, s.Past = append(s.Tenures, p.Tenures...), append(s.Links, p.Links...), append(s.Past, p.Past...)
}
