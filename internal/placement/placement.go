// Package placement decides which nodes of a cluster compete for an id, and which
// give ids to which. It is pure: every node decides for itself, on the roster that it
// saw last, and what they decide fits together as far as their rosters do.
//
// Where these differ, nothing is lost by it but evenness: an id has a standby more or
// less, a gift is refused, and the next round mends it.
package placement

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
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

// Standbys is how many nodes compete for an id that another may hold.
const Standbys = 3

const (
	// Nodes are ranked for a slot of ids, as a million ids times a thousand nodes
	// are too many. So many slots hardly make shares of ids less even.
	slots = 4096
	// An id that is run by one node alone spoils the comparison of its bucket.
	buckets = 32
)

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
// the same for a bucket run the same ids of it, but for a chance of 2⁻³².
type Digest [buckets]uint32

// Toggle adds an id, or takes it out again.
func (d *Digest) Toggle(id string) {
	h := hash(id)
	d[h%buckets] ^= uint32(h >> 32)
}

// String is the form for the roster.
func (d Digest) String() string {
	b := make([]byte, 0, 4*buckets)
	for _, n := range d {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseDigest understands what String says.
func ParseDigest(s string) (d Digest, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != 4*buckets {
		return d, fmt.Errorf("placement: malformed digest of %d bytes", len(s))
	}
	for i := range d {
		d[i] = binary.BigEndian.Uint32(b[4*i:])
	}
	return d, nil
}

// A View is one node's view of its cluster. It is not changed once made.
type View struct {
	me     Node
	others []Node
	stands [slots]bool // whether the node is to compete for ids of a slot
}

// See makes the view of a node, which itself may be missing among nodes.
func See(me Node, nodes []Node) *View {
	v := &View{me: me}
	for _, n := range nodes {
		if n.Name != me.Name {
			v.others = append(v.others, n)
		}
	}
	if !me.holds() {
		return v
	}
	seeds := make([]uint64, len(v.others))
	for i, n := range v.others {
		seeds[i] = hash(n.Name)
	}
	own := hash(me.Name)
	for slot := range uint64(slots) {
		mine, better := rank(own, slot, me.Weight), 0
		for i := range v.others {
			n := &v.others[i]
			// One that does not run all the same ids may not run this one.
			if n.holds() && n.Runs[slot%buckets] == me.Runs[slot%buckets] && rank(seeds[i], slot, n.Weight) > mine {
				better++
			}
		}
		v.stands[slot] = better < Standbys
	}
	return v
}

// rank is a node's in weighted rendezvous hashing: the highest ranks of a slot
// change with the nodes that have them, and no other.
func rank(node, slot uint64, weight float64) float64 {
	u := (float64(mix(node^mix(slot))>>11) + 0.5) / (1 << 53) // in (0, 1)
	return -weight / math.Log(u)
}

// Competes reports whether the node is to compete for an id.
func (v *View) Competes(id string) bool { return v.stands[hash(id)%slots] }

// Share is the number of ids that the node should hold.
func (v *View) Share() float64 { share, _ := v.shares(); return share }

func (v *View) shares() (mine float64, others []float64) {
	all, weights := float64(v.me.Held), v.me.share()
	for i := range v.others {
		all += float64(v.others[i].Held)
		weights += v.others[i].share()
	}
	others = make([]float64, len(v.others))
	if weights == 0 {
		return 0, others
	}
	for i := range v.others {
		others[i] = all * v.others[i].share() / weights
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

// slack is how far a node may be from its share before anything is moved.
func slack(share float64) float64 { return max(1.5, share*0.03) }

// Gifts is what the node is to give away now. All nodes together give as much as
// brings those within slack that are not, each in proportion to what it has more
// than its share. Fractions are rounded at random: of a thousand nodes that have
// one id more than they should, not each gives one to the node that has just come.
func (v *View) Gifts() (gifts []Gift) {
	share, shares := v.shares()
	over := float64(v.me.Held) - share
	if over <= 0 || v.me.Young && v.me.holds() {
		return nil
	}
	var much, few, spare, want float64 // beyond slack: above, below; above and below at all
	note := func(n *Node, share float64) {
		d := float64(n.Held) - share
		switch {
		case n.Young:
		case d > 0:
			spare += d
			if d > slack(share) || share == 0 {
				much += d
			}
		case d < 0:
			want -= d
			if -d > slack(share) {
				few -= d
			}
		}
	}
	note(&v.me, share)
	for i := range v.others {
		note(&v.others[i], shares[i])
	}
	total := min(max(much, few), spare, want)
	if total == 0 {
		return nil
	}
	for i, n := range v.others {
		if d := shares[i] - float64(n.Held); d > 0 {
			if ids := round(total * over / spare * d / want); ids > 0 {
				gifts = append(gifts, Gift{n.Name, ids})
			}
		}
	}
	rand.Shuffle(len(gifts), func(i, j int) { gifts[i], gifts[j] = gifts[j], gifts[i] })
	return gifts
}

func round(f float64) int {
	n := math.Floor(f)
	if rand.Float64() < f-n {
		n++
	}
	return int(n)
}

// Room is how many ids more the node is to take of others that give.
func (v *View) Room() int {
	if v.me.share() == 0 {
		return 0
	}
	return max(0, int(math.Ceil(v.Share()))-v.me.Held)
}
