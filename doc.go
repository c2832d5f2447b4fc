// Package gone (go-one) runs one, and only one, instance of a goroutine on a
// cluster of nodes, and lets any node send data to it wherever it runs.
//
// RunOne is "this goroutine runs on exactly one node". SendData is a send on an
// unbuffered channel that happens to cross the cluster: it returns nil when the
// handler has received the data from r.Data.
//
//	g, err := gone.NewGone("tcp://10.0.0.7:6381", gone.RedisLocks("redis://10.0.0.1"))
//	r, err := g.RunOne("irc:#room", handler)                           // on every node
//	err = g.SendData("irc:#room", []byte("hello"))                     // on any node
//	reply, err := g.Request(ctx, "irc:#room", []byte("who is there?")) // waits for m.Reply
//
//	func handler(r *gone.GoneRunner) {
//		for m := range r.Messages() {
//			m.Reply(answer(m.Data))
//		}
//	}
//
// A handler with a loop of its own receives from r.Data or r.Inbox until r.Exit
// closes, and extends:
//
//	case <-ticker.C: // every third of r.TTL()
//		go r.Extend() // beside the loop: messages flow while the lock service is slow
//
// # Words
//
// An id is the name of one singleton. A node is one [Gone] in one process, with
// one advertised address. The holder is the node that holds the id's lock. A
// tenure is one uninterrupted holding of an id by a node: one call of the
// handler. A fencing token is a number that strictly increases from tenure to
// tenure of an id. A lease is the right to run until a deadline that only a
// confirmed Lock or Extend moves. The TTL, or expiry, is how long the lock
// service keeps the lock without an Extend, 30 s by default.
//
// # Exactly one
//
// The lease's deadline is the moment before the Lock or Extend request was sent,
// plus nine tenths of the TTL, on a local clock that no one sets and that, on
// Linux, goes on while the machine sleeps. Exit closes then, whatever the
// network does, and so before the lock service can give the lock to another.
//
// Nothing extends the lock but [GoneRunner.Extend], by which the handler proves
// its health, by itself or by coming round in [GoneRunner.Messages] or
// [GoneRunner.Batches]. Inside Extend, an answer that leaves open whether the lock
// is held is retried until the deadline. Only "another's" and "gone" mean lost, and
// then Exit closes at once. The lock is released after the handler has returned,
// never before.
//
// A tenure's life on one node:
//
//	           Lock: held by another
//	             ┌───────┐
//	             ▼       │
//	RunOne ──▶ waiting ──┘◀─────────────── pause ──────────────┐
//	             │ Lock: acquired                              │
//	             ▼                                             │
//	          holding ── handler returns or panics ────────────┤ Unlock:
//	             │ Exit closes: deadline passed,               │ released
//	             │ lock lost, id handed over, or Close         │ (not if lost)
//	             ▼                                             │
//	          stopping ── handler returns ─────────────────────┘
//
// After Close the path ends where it would lead back to waiting. While stopping,
// the handler may still Extend to clean up under the lock, unless that is lost
// or the deadline has passed.
//
// # Every message accounted for
//
// A send ends in exactly one of these, and [errors.Is] tells which:
//
//	nil                 the handler received the data from r.Data, once
//	ErrNotDelivered     no handler received it and none ever will; sending it
//	                    again is safe
//	ErrOutcomeUnknown   it may have been received, once; the caller decides
//
// A [Gone.Request] waits for the handler's reply as well. It adds one result:
//
//	ErrOutcomeUnknown   and ErrNoReply: the handler received it, and its reply did
//	                    not come
//
// A reply is given to its own request, and at most once. A request that its handler has
// not answered when it returns ends with ErrNoReply. A handler's request to its own id is
// refused; handlers that ask each other in a circle wait until their deadlines.
//
// While an id has no holder, a send waits for one until its deadline: the
// context's, or 10 s. It repeats by itself only what certainly was not received.
// It never waits for a holder that cannot answer any more: when a successor is
// known and the old holder is silent, the outcome is unknown at once.
// What one goroutine sends to one id arrives in that order. A handler that is
// slow makes its senders wait, and nobody else. When a tenure ends, what its
// handler did not take goes to the next holder through its sender. Data is
// addressed to a tenure: another one, also of a process that was started anew on
// the same address, refuses it.
//
// # Many ids
//
// With [WithBalance] each node holds its share of the ids by its weight, ± 5 % or ± 2
// ids, within 30 s after nodes came or went, and within the TTL and 30 s after one
// crashed; then nothing moves. Every move is a planned hand-over: no send fails because
// of it. Three nodes compete for an id, those that rank first for it; when they are gone,
// others take their place. Without the option all nodes that run an id compete for it,
// and whoever comes first holds it.
//
// Nodes that run ids enter themselves in a roster, which the lock service keeps;
// [Gone.Nodes] lists it. With balance each node reads it, and decides for itself what it
// gives away. An id moves only to a node that runs it.
//
// [Gone.Drain] hands over all that a node holds, [Gone.Move] one id, and a handler its own
// with [GoneRunner.Yield]. A node that drains, or has weight 0, holds nothing and goes on
// sending. If no node may hold an id nobody does, and senders get ErrNoHolder.
//
// # When things fail
//
//	what happens                      what gone does
//	holder crashes                    the lock expires after its TTL; another node
//	                                  takes over some ms later
//	Close, or handler returns         the lock is released; another node takes over
//	                                  in about a millisecond
//	handler panics                    as if it returned; logged with its stack
//	handler hangs                     no Extend, so Exit closes and the lock expires;
//	                                  this node competes again when it has returned;
//	                                  logged, and counted as overdue
//	handler does not read Data        senders wait, then get ErrNotDelivered (ErrBusy)
//	lock service unreachable          Extend retries; Exit closes at the deadline;
//	                                  everybody competes when it is back
//	lock service loses its memory     the holder's next Extend says lost; another may
//	                                  start before that, with a higher token
//	process paused past its deadline  no message reaches it any more but one that was
//	                                  on offer (see below); Extend says lost; the
//	                                  protected resource refuses its token
//	machine suspended                 the same within a second of waking (on Linux)
//	holder crashes with messages on   their senders get ErrOutcomeUnknown about a second
//	their way                         after the TTL, whatever their deadline; what had not
//	                                  left goes to the next holder
//	holder unreachable for a sender   the same once another holder is known; until then
//	                                  the send waits, at most for its deadline
//	two processes with one address    both are told, in the log and by [Gone.Check]
//	a node's name leads elsewhere     looked up again about a second after the node has
//	                                  fallen silent; of several addresses each is tried
//	roster lost, or not readable      nothing moves until it is back; after a minute each
//	                                  node competes for all ids that it runs
//	wake-ups lost                     waiters try when the TTL has run out
//
// # The log
//
// A node logs to [log/slog.Default], or where [WithLogger] says. INFO is a line
// for each tenure that begins and for each that ends, with its id, its token and
// why, and one at start when the wire is plain. WARN is what somebody should act
// on: a tenure that was lost, with what to do if its handler never extended it; a
// handler that extends later than half the TTL (once for each RunOne), or ignores
// Exit; an id that can't be competed for; a roster that [WithBalance] needs and can't
// use; a node that can't be reached or was refused for its key; a node that does not
// reach itself at its address, or shares it with another process (see [Gone.Check]).
// Each is said once, with the reason, and again when it comes anew. ERROR is a handler's
// panic, with its stack, and a node that receives nothing any more. Messages are not
// logged: each send has its result.
//
// # Not promised
//
// No overlap in real time. A process that is paused past its deadline can't stop its
// handler in time; no lease can promise that. In the microseconds between waking and the
// closing of Exit it may complete one hand-over, of the message that was being offered to
// the handler when the pause began. A resource that checks [GoneRunner.FencingToken] is
// safe.
//
// No overlap when the lock service forgets a lock that it had granted, as Redis can in a
// failover. Tokens go on to increase even then, unless Redis loses the last token and its
// clock is set back at the same time, as when it fails over to a replica with a slower
// clock that had not received the token.
//
// No durability: gone hands over, it does not store. Put a queue in front where you need
// one. No exactly-once processing: a holder that dies after it received a message may not
// have acted on it.
//
// # Who gets in
//
// Without [WithCurve] whoever reaches a node's port can speak to its handlers, so
// only nodes may reach it. With it everything is encrypted, and nobody gets in
// whose key is not allowed. SECURITY.md says who is trusted with what, and
// lists all limits.
//
// # Other lock services
//
// [GoneLock] has four methods. What a lock can do beyond them it says by
// implementing [Expirer], [Fencer], [Waiter], [Passer], [Roster], [Checker] or
// [io.Closer].
package gone
