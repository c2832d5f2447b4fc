// Package placement decides which nodes of a cluster compete for an id, and which
// give ids to which. It is pure: every node decides for itself, on the roster that it
// saw last, and what they decide fits together as far as their rosters do.
//
// Where these differ, nothing is lost by it but evenness: an id has a standby more or
// less, a gift is refused, and the next round mends it.
package placement

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
)

// A Node is one as the roster has it.
type Node struct {
	Name    string
	Weight  float64 // its share of the ids beside others'; 0: it holds none
	Leaving bool    // it gives away all that it holds
	Young   bool    // it has not been there for long: it may be gone as soon
	Held    int     // ids
	Runs    Digest
}

// holds reports whether a node may hold ids.
func (n *Node) holds() bool { return n.Weight > 0 && !n.Leaving }

// Standbys is how many nodes compete for an id, its holder included if that is one of
// them.
const Standbys = 3

// Slots of ids are what nodes are ranked for, as a million ids times a thousand nodes
// are too many. So many hardly make shares of ids less even.
const Slots = 4096

// Slot is that of an id.
func Slot(id string) int { return int(hash(id) % Slots) }

// Ids are compared by buckets: one that a single node runs spoils only its own.
const buckets = 32

// hash is the same in every process and every version.
func hash(s string) uint64 {
	h := uint64(14695981039346656037) // FNV-1a, whose low bits are mixed below
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}

func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// A Digest is of the ids that a node runs, whoever holds them. Two nodes that have
// the same sum for a bucket run the same ids of it, but for a chance of 2⁻³². The
// least of a bucket's hashes is the same for two nodes as often as an id that either
// runs is run by both.
type Digest struct{ sums, least [buckets]uint32 }

// DigestOf makes the digest of ids.
func DigestOf(ids iter.Seq[string]) (d Digest) {
	for id := range ids {
		h := hash(id)
		b, h32 := h%buckets, max(uint32(h>>32), 1)
		d.sums[b] ^= h32
		if d.least[b] == 0 || h32 < d.least[b] {
			d.least[b] = h32
		}
	}
	return d
}

// kin reports whether nodes run much the same ids, and may give each other some.
func kin(a, b *Digest) bool {
	same, either := 0, 0
	for i := range buckets {
		if a.least[i] != 0 || b.least[i] != 0 {
			either++
			if a.least[i] == b.least[i] {
				same++
			}
		}
	}
	return 8*same > either
}

// MarshalText makes the form for the roster.
func (d Digest) MarshalText() ([]byte, error) {
	b := make([]byte, 0, 8*buckets)
	for i := range buckets {
		b = binary.BigEndian.AppendUint32(b, d.sums[i])
		b = binary.BigEndian.AppendUint32(b, d.least[i])
	}
	return base64.RawURLEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText understands what MarshalText makes.
func (d *Digest) UnmarshalText(text []byte) error {
	b, err := base64.RawURLEncoding.AppendDecode(nil, text)
	if err != nil || len(b) != 8*buckets {
		return fmt.Errorf("placement: malformed digest of %d bytes", len(text))
	}
	for i := range buckets {
		d.sums[i], d.least[i] = binary.BigEndian.Uint32(b[8*i:]), binary.BigEndian.Uint32(b[8*i+4:])
	}
	return nil
}

// A View is one node's view of its cluster. It is not changed once made.
type View struct {
	me     *Node
	others []*Node
	kin    []*Node             // those of the others that may be given ids, or give some
	ranked uint64              // what stands depends on
	stands func() *[Slots]bool // whether the node is to compete for ids of a slot
}

// See makes the view of a node, which itself may be missing among nodes. These must
// not be changed any more. The view before, if there was one, saves work when no node
// has come or gone since.
func See(me Node, nodes []Node, before *View) *View {
	v := &View{me: &me, ranked: me.print()}
	for i := range nodes {
		n := &nodes[i]
		if n.Name != me.Name {
			v.others = append(v.others, n)
			v.ranked ^= mix(n.print())
			if kin(&n.Runs, &me.Runs) {
				v.kin = append(v.kin, n)
			}
		}
	}
	if v.RanksAs(before) {
		v.stands = before.stands
	} else {
		v.stands = sync.OnceValue(v.compete)
	}
	return v
}

// RanksAs reports whether the node competes for the same ids as in the view before.
func (v *View) RanksAs(before *View) bool { return before != nil && before.ranked == v.ranked }

// print is of what a node's rank for any id depends on.
func (n *Node) print() uint64 {
	if !n.holds() {
		return 0
	}
	h := mix(hash(n.Name) ^ math.Float64bits(n.Weight))
	for _, sum := range n.Runs.sums {
		h = mix(h ^ uint64(sum))
	}
	return h
}

// Contenders are the nodes that compete for the ids of a slot where all run the same,
// by their places among nodes.
func Contenders(nodes []Node, slot int) (first []int) {
	var ranks []float64
	for i := range nodes {
		n := &nodes[i]
		if !n.holds() {
			continue
		}
		r := rank(hash(n.Name), uint64(slot), n.Weight)
		at, _ := slices.BinarySearchFunc(ranks, r, func(a, b float64) int { return cmp.Compare(b, a) })
		if at < Standbys {
			ranks, first = slices.Insert(ranks, at, r), slices.Insert(first, at, i)
			ranks, first = ranks[:min(len(ranks), Standbys)], first[:min(len(first), Standbys)]
		}
	}
	return first
}

// compete says for which slots the node is among the first.
func (v *View) compete() *[Slots]bool {
	var stands [Slots]bool
	if !v.me.holds() {
		return &stands
	}
	seeds := make([]uint64, len(v.others))
	for i, n := range v.others {
		seeds[i] = hash(n.Name)
	}
	own := hash(v.me.Name)
	for slot := range uint64(Slots) {
		mine, better := rank(own, slot, v.me.Weight), 0
		for i, n := range v.others {
			// One that does not run all the same ids may not run this one.
			if n.holds() && n.Runs.sums[slot%buckets] == v.me.Runs.sums[slot%buckets] && rank(seeds[i], slot, n.Weight) > mine {
				better++
			}
		}
		stands[slot] = better < Standbys
	}
	return &stands
}

// rank is a node's in weighted rendezvous hashing: the highest ranks of a slot
// change with the nodes that have them, and no other.
func rank(node, slot uint64, weight float64) float64 {
	u := (float64(mix(node^mix(slot))>>11) + 0.5) / (1 << 53) // in (0, 1)
	return -weight / math.Log(u)
}

// Competes reports whether the node is to compete for an id.
func (v *View) Competes(id string) bool { return v.stands()[Slot(id)] }

// Share is the number of ids that the node should hold.
func (v *View) Share() float64 { share, _ := v.shares(); return share }

func (v *View) shares() (mine float64, others []float64) {
	all, weights := float64(v.me.Held), v.me.share()
	for i := range v.kin {
		all += float64(v.kin[i].Held)
		weights += v.kin[i].share()
	}
	others = make([]float64, len(v.kin))
	if weights == 0 {
		return 0, others
	}
	for i := range v.kin {
		others[i] = all * v.kin[i].share() / weights
	}
	return all * v.me.share() / weights, others
}

func (n *Node) share() float64 {
	if !n.holds() || n.Young {
		return 0
	}
	return n.Weight
}

// A Gift is so many ids for a node.
type Gift struct {
	To  string
	IDs int
}

// Gifts is what the node is to give away now. Nodes beyond slack give all that they
// have over their share; where nodes below slack need more than that, the others with
// something over add their part. All nodes reckon alike, so that nobody is given too
// much, and no more is moved than must be.
func (v *View) Gifts() []Gift {
	share, shares := v.shares()
	mine := excess(v.me, share)
	if mine <= 0 {
		return nil
	}
	var much, some, few, free float64 // over: beyond slack, within; missing: beyond slack, at all
	weigh := func(d, share float64) {
		switch {
		case far(d, share):
			much += d
		case d > 0:
			some += d
		case d < 0:
			free -= d
			if far(-d, share) {
				few -= d
			}
		}
	}
	weigh(mine, share)
	frees := make([]float64, len(v.kin))
	for i := range v.kin {
		d := excess(v.kin[i], shares[i])
		weigh(d, shares[i])
		frees[i] = max(-d, 0)
	}
	if few > much {
		for i, d := range frees {
			if !far(d, shares[i]) {
				frees[i] = 0
			}
		}
		free = few
	}
	if !far(mine, share) {
		return v.deal(max(few-much, 0)*mine/some, frees, free)
	}
	return v.deal(mine*min(free/much, 1), frees, free)
}

// far reports whether so many ids over a share, or missing, are beyond slack: little
// enough that nothing moves for it.
func far(d, share float64) bool { return d > max(1.5, share*0.03) || d > 0 && share == 0 }

// excess is what a node has beyond its share. That of a young one does not count.
func excess(n *Node, share float64) float64 {
	if n.Young && n.holds() {
		return 0
	}
	return float64(n.Held) - share
}

// deal distributes ids over nodes in proportion to what they have free. Fractions are
// rounded at random: of a thousand nodes that have one id over their share, not each
// gives one to the node that has just come.
func (v *View) deal(ids float64, frees []float64, free float64) (gifts []Gift) {
	rest := int(ids)
	if rand.Float64() < ids-float64(rest) {
		rest++
	}
	if rest == 0 || free == 0 {
		return nil
	}
	counts := make([]int, len(frees))
	for i, f := range frees {
		counts[i] = int(ids * f / free)
		rest -= counts[i]
	}
	for ; rest > 0; rest-- {
		at := rand.Float64() * free
		for i, f := range frees {
			if at -= f; at < 0 {
				counts[i]++
				break
			}
		}
	}
	for i, n := range counts {
		if n > 0 {
			gifts = append(gifts, Gift{v.kin[i].Name, n})
		}
	}
	rand.Shuffle(len(gifts), func(i, j int) { gifts[i], gifts[j] = gifts[j], gifts[i] })
	return gifts
}

// Room is how many ids more the node is to take of others that give.
func (v *View) Room() int {
	if v.me.share() == 0 {
		return 0
	}
	return max(0, int(math.Ceil(v.Share()))-v.me.Held)
}
