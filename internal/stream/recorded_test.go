package stream_test

import (
	"bytes"
	"context"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Diggs/go-one/internal/link"
	"github.com/Diggs/go-one/internal/link/linktest"
	"github.com/Diggs/go-one/internal/mailbox"
	"github.com/Diggs/go-one/internal/pulse"
	"github.com/Diggs/go-one/internal/stream"
	"github.com/Diggs/go-one/internal/wire"
)

// What was said in version 1, line by line: frames of the sender ">" and of the
// holder "<", what each of them does, and what comes of it. A later version has
// to be able to lead the same conversations in either role; it may add Hellos of
// more versions, and nothing else may change. The files are not written anew.
//
//go:embed testdata/version1
var recordings embed.FS

// Numbers of the links in the recordings; today's are random.
const senderLink, holderLink = 0x5151515151515151, 0x4848484848484848

func TestARecordedConversationOfVersion1IsLedTodayInEitherRole(t *testing.T) {
	files, err := recordings.ReadDir("testdata/version1")
	if err != nil || len(files) == 0 {
		t.Fatal(len(files), err)
	}
	for _, f := range files {
		text, err := recordings.ReadFile("testdata/version1/" + f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, role := range []string{"sender", "holder"} {
			if strings.Contains(string(text), "# not the "+role) {
				continue
			}
			t.Run(strings.TrimSuffix(f.Name(), ".txt")+" as "+role, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { play(t, role, strings.Split(string(text), "\n")) })
			})
		}
	}
}

// An actor is one side, in one role.
type actor struct {
	t       *testing.T
	role    string
	net     *linktest.Network
	tick    *pulse.Pulse
	mesh    *link.Mesh
	room    *mailbox.Room
	mux     *stream.Mux
	box     *mailbox.Box
	end     context.CancelFunc // of the tenure
	streams map[string]*stream.Stream
	calls   map[string]context.CancelFunc
	said    chan []byte
	unread  [][]byte // of said
	acked   *uint64  // by what was said; nil: nothing was
	events  chan string
	number  uint64 // of its link
}

func newActor(t *testing.T, role string, net *linktest.Network) *actor {
	a := &actor{
		t: t, role: role, net: net,
		streams: map[string]*stream.Stream{}, calls: map[string]context.CancelFunc{},
		said: make(chan []byte, 100), events: make(chan string, 100),
	}
	a.tick = pulse.New(func(now time.Time) time.Time {
		next := pulse.Earliest(pulse.Earliest(a.mesh.Tick(now), a.mux.Tick(now)), a.room.Tick(now))
		a.changes()
		return next
	})
	host := net.Host(role)
	a.mesh = link.NewMesh(link.Config{Identity: role, Carrier: host, Vouches: func([]byte, string) bool { return true }}, a.tick)
	a.room = mailbox.NewRoom(a.tick, 100)
	a.mux = stream.NewMux(a.room, a.tick)
	host.Receive(func(frame []byte, from string) {
		l, items, err := a.mesh.Receive(frame, from)
		if err == nil && items != nil {
			err = a.mux.Receive(l, items)
		}
		if err != nil {
			t.Errorf("the %s: %v: %x", role, err, frame)
		}
		a.changes()
	})
	return a
}

func (a *actor) changes() {
	for _, c := range a.mesh.Changes() {
		if c.What == link.Ended {
			a.mux.Ended(c.Link)
			a.events <- "the link is over"
		}
	}
}

func (a *actor) close() {
	a.mux.Withdraw()
	time.Sleep(time.Second)
	if a.box != nil {
		a.box.Shut()
	}
	a.tick.Stop()
	a.mesh.Close()
	a.room.Close()
}

// act does what a line says.
func (a *actor) act(line string) {
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case "begin": // a tenure: id, token
		var id string
		var token uint64
		_, _ = fmt.Sscan(rest, &id, &token)
		ctx, end := context.WithCancel(context.Background())
		a.box, a.end = a.room.Begin(ctx, ctx, id, token, func() time.Duration { return time.Hour }, whole()), end
	case "receive": // what the handler does
		go func() { a.events <- "received " + string(<-a.box.Data) }()
	case "end":
		a.end()
		a.box.Shut()
	case "leave":
		a.mesh.Refuse()
		go a.mesh.Farewell(time.Second)
	case "open": // a stream: name, id, token
		var name, id string
		var token uint64
		_, _ = fmt.Sscan(rest, &name, &id, &token)
		l, err := a.mesh.To("holder")
		if err == nil {
			a.streams[name], err = a.mux.Open(l, id, token)
		}
		if err != nil {
			a.t.Error(err)
		}
	case "send", "try", "ask", "batch": // in a stream, within a time: data
		var name, within, data string
		_, _ = fmt.Sscan(rest, &name, &within, &data)
		patience, err := time.ParseDuration(within)
		if err != nil {
			a.t.Error(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		a.calls[data] = cancel
		go func() { a.events <- a.call(ctx, verb, a.streams[name], data, time.Now().Add(patience)) }()
	case "cancel":
		a.calls[rest]()
	case "close":
		a.streams[rest].Retire()
	default:
		a.t.Errorf("what is %q?", line)
	}
	synctest.Wait()
}

func (a *actor) call(ctx context.Context, verb string, s *stream.Stream, data string, deadline time.Time) string {
	if verb == "batch" {
		var msgs [][]byte
		for m := range strings.SplitSeq(data, ",") {
			msgs = append(msgs, []byte(m))
		}
		n, end := s.SendBatch(ctx, msgs, stream.Call{Deadline: deadline})
		return fmt.Sprintf("%s ended: %d, status %d", data, n, end.Status)
	}
	end := s.Send(ctx, stream.Call{Data: []byte(data), Deadline: deadline, Flags: map[string]uint64{"send": 0, "try": wire.Try, "ask": wire.WantsReply}[verb]}, time.Now())
	text := fmt.Sprintf("%.20s ended: status %d", data, end.Status)
	if end.Reply != nil {
		text += fmt.Sprintf(", reply %q, failed %v", end.Reply, end.Failed)
	}
	if end.Status == wire.Ended || end.Status == wire.Absent {
		text += fmt.Sprintf(", current %d", s.Current())
	}
	return text
}

// renumber replaces the number of a link in a frame.
func renumber(frame []byte, from, to uint64) []byte {
	frame = bytes.Clone(frame)
	at := []int{3, 11}
	if h, _, err := wire.ParseFrame(frame); err == nil && h.Kind == wire.Hello {
		at = []int{4, 12}
	}
	for _, i := range at {
		if binary.BigEndian.Uint64(frame[i:]) == from {
			binary.BigEndian.PutUint64(frame[i:], to)
		}
	}
	return frame
}

// next returns the next frame that was said, nil if none is for long. A frame that
// only acknowledges is not due where another does that, and may be said besides:
// it is returned if it is wanted, whichever frame has acknowledged as much.
func (a *actor) next(want []byte) []byte {
	h, _, err := wire.ParseFrame(want)
	ack := err == nil && h.Kind == wire.Ack
	for {
		if ack && a.acked != nil && *a.acked >= h.Ack {
			return want
		}
		if !ack && len(a.unread) > 0 {
			frame := a.unread[0]
			a.unread = a.unread[1:]
			return frame
		}
		var frame []byte
		select {
		case frame = <-a.said:
		case <-time.After(2 * time.Second):
			return nil
		}
		if g, err := wire.ParseHello(frame); err == nil {
			a.number = g.Link
			if g.Lowest > 1 {
				a.t.Error("version 1 is not spoken any more")
			}
			frame[2], frame[3] = 1, 1
			a.unread = append(a.unread, frame)
			continue
		}
		h, _, err := wire.ParseFrame(frame)
		if err != nil {
			a.t.Error(err)
		}
		a.acked = &h.Ack
		if h.Kind != wire.Ack {
			a.unread = append(a.unread, frame)
		}
	}
}

// play has today's code in one role, and the recording in the other.
func play(t *testing.T, role string, lines []string) {
	net := linktest.New()
	me := newActor(t, role, net)
	defer me.close()
	arrow, other, number := ">", "holder", uint64(senderLink)
	if role == "holder" {
		arrow, other, number = "<", "sender", holderLink
	}
	net.Host(other).Receive(func(frame []byte, _ string) { me.said <- frame })
	wait := func(i int, what string) {
		t.Helper()
		t.Fatalf("line %d: the %s does not %s", i+1, role, what)
	}
	seen := map[string]bool{}
	for i, line := range lines {
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "", "#":
		case "wait":
			d, err := time.ParseDuration(rest)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(d)
		case "sender", "holder": // does
			if word == role {
				me.act(rest)
			}
		case "sender:", "holder:": // has seen
			if word != role+":" {
				continue
			}
			for !seen[rest] { // what happens at once has no order
				select {
				case got := <-me.events:
					seen[got] = true
				case <-time.After(2 * time.Second):
					wait(i, fmt.Sprintf("see %q but %v", rest, seen))
				}
			}
			delete(seen, rest)
		case ">", "<":
			frame, err := hex.DecodeString(rest)
			if err != nil {
				t.Fatalf("line %d: %v", i+1, err)
			}
			if word != arrow {
				net.Inject(other, role, renumber(frame, number, me.number), 0)
				time.Sleep(time.Microsecond)
				synctest.Wait()
				continue
			}
			got := me.next(frame)
			if got == nil {
				wait(i, "say "+rest)
			}
			if got = renumber(got, me.number, number); !bytes.Equal(got, frame) {
				t.Errorf("line %d: the %s says\n%x, want\n%x", i+1, role, got, frame)
			}
		default:
			t.Fatalf("line %d: what is %q?", i+1, line)
		}
	}
	time.Sleep(10 * time.Millisecond)
	for more := me.next(nil); more != nil; more = me.next(nil) {
		t.Errorf("the %s says more: %x", role, more)
	}
	for len(me.events) > 0 {
		seen[<-me.events] = true
	}
	if len(seen) > 0 {
		t.Errorf("the %s sees %v besides", role, seen)
	}
}
