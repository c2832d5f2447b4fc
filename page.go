package gone

import (
	"cmp"
	"encoding/json"
)

// A page is part of a node's [Status] as another node is told of it: with many ids it has
// to go in several answers. The lists stand in for those of the Status; ids need not be
// UTF-8, so they go as bytes.
type page struct {
	Status
	Tenures []tenureEntry
	Past    []pastEntry
	Next    *place `json:",omitempty"` // where the next page begins; nil: this is the last
}

type tenureEntry struct {
	Tenure
	ID []byte
}

type pastEntry struct {
	PastTenure
	ID []byte
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

// about is the page of this node's status that begins at a place.
func (g *Gone) about(from *place) *page {
	p := &page{Status: g.status(), Next: cmp.Or(from, &place{})}
	room := pageBytes
	for _, t := range p.Status.Tenures {
		e := tenureEntry{t, []byte(t.ID)}
		if t.ID > string(p.Next.ID) && fits(e, &room) {
			p.Tenures, p.Next.ID = append(p.Tenures, e), e.ID
		}
	}
	links := p.Links
	p.Links = nil
	for _, l := range links {
		if l.Addr > p.Next.Addr && fits(l, &room) {
			p.Links, p.Next.Addr = append(p.Links, l), l.Addr
		}
	}
	past, number := g.past.latest()
	for i, t := range past {
		e, n := pastEntry{t, []byte(t.ID)}, number-i
		if (p.Next.Past == 0 || n < p.Next.Past) && fits(e, &room) {
			p.Past, p.Next.Past = append(p.Past, e), n
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
	tenures, links, past := s.Tenures, append(s.Links, p.Links...), s.Past
	for _, t := range p.Tenures {
		t.Tenure.ID = string(t.ID)
		tenures = append(tenures, t.Tenure)
	}
	for _, t := range p.Past {
		t.PastTenure.ID = string(t.ID)
		past = append(past, t.PastTenure)
	}
	*s = p.Status
	s.Tenures, s.Links, s.Past = tenures, links, past
}
