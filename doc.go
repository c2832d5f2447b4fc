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
//   - An id is the name of one singleton.
//   - A node is one [Gone] in one process, with one advertised address.
//   - The lock service is the Redis, etcd or PostgreSQL that says who holds an id.
//   - The holder is the node that holds the id's lock.
//   - A tenure is one uninterrupted holding of an id by a node: one call of the handler.
//   - A fencing token is a number that strictly increases from tenure to tenure of an id.
//   - The TTL, or expiry, is how long the lock service keeps the lock without an Extend,
//     30 s by default.
//   - A lease is the right to run until a deadline that only a confirmed Lock or Extend
//     moves.
//
// # Exactly one
//
// The lease's deadline is the moment before the Lock or Extend request was sent,
// plus nine tenths of the TTL. It is on a local clock that nobody sets and that, on
// Linux, goes on while the machine sleeps. Exit closes at the deadline, whatever the
// network does: before the lock service can give the lock to another node.
//
// Nothing extends the lock but the handler, which so proves its health: by calling
// [GoneRunner.Extend], or by coming round in [GoneRunner.Messages] or
// [GoneRunner.Batches]. Extend retries answers that leave open whether the lock is held,
// until the deadline. Only "another's" and "gone" mean lost, and then Exit closes at
// once. The lock is released after the handler has returned, never before.
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
// After Close a tenure is the last one: nothing leads back to waiting. While stopping,
// the handler may still Extend to clean up under the lock, unless the lock is lost or
// the deadline has passed.
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
// [Gone.Request] also waits for the handler's reply, and has one more result:
//
//	ErrOutcomeUnknown   and ErrNoReply: the handler received it, and its reply did
//	                    not come
//
// A reply goes to its own request, and at most once. A request that the handler has not
// answered when it returns ends with ErrNoReply. A handler's request to its own id is
// refused; handlers that ask each other in a circle wait until their deadlines.
//
// While an id has no holder, a send waits for one until its deadline: the context's, or
// 10 s. It repeats by itself only what certainly was not received. It never waits for a
// holder that can no longer answer: when a successor is known and the old holder is
// silent, the outcome is unknown at once. What one goroutine sends to one id arrives in
// that order. A slow handler makes its own senders wait, and nobody else.
//
// Data is addressed to a tenure. Any other tenure refuses it, also one of a process that
// was restarted on the same address. When a tenure ends, its senders send what the
// handler did not take to the next holder.
//
// # Many ids
//
// With [WithBalance] each node holds its share of the ids by its weight, ± 5 % or ± 2
// ids. It has its share within 30 s after nodes came or went, and within the TTL and 30 s
// after a crash; then nothing moves. Every move is a planned hand-over: no send fails
// because of it. Three nodes compete for each id; when they are gone, others take their
// place. Without the option all nodes that run an id compete for it, and the first one
// holds it.
//
// Nodes that run ids enter themselves in a roster, a list that the lock service keeps and
// [Gone.Nodes] returns. With balance each node reads it and decides for itself what it
// gives away. An id moves only to a node that runs it.
//
// [Gone.Drain] hands over all that a node holds, [Gone.Move] one id, and
// [GoneRunner.Yield] the handler's own. A node that drains, or has weight 0, holds nothing
// and goes on sending. If no node may hold an id, nobody does, and senders get
// ErrNoHolder.
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
// A node logs to [log/slog.Default], or to the logger of [WithLogger].
//
// INFO has a line for each tenure that begins or ends, with its id, its token and why, and
// one at start when the wire is plain.
//
// WARN is what somebody should act on. Each is logged once, with the reason, and again
// when it comes anew:
//
//   - a tenure was lost; the line says what to do if its handler never extended
//   - a handler extends later than half the TTL (once for each RunOne), or ignores Exit
//   - the node can't compete for an id
//   - the roster that [WithBalance] needs can't be used
//   - another node can't be reached, or was refused for its key
//   - the node does not reach itself at its address, or shares it with another process
//     (see [Gone.Check])
//
// ERROR is a handler's panic, with its stack, and a node that no longer receives anything.
// Messages are not logged: each send has its result.
//
// # Not promised
//
//   - That two handlers never overlap in real time. A process that is paused past its
//     deadline can't stop its handler in time; no lease can. In the microseconds between
//     waking and the closing of Exit it may complete one hand-over, of the message that
//     was on offer when the pause began. A resource that checks
//     [GoneRunner.FencingToken] is safe.
//   - That they never overlap when the lock service forgets a lock that it had granted, as
//     Redis can in a failover. Tokens increase even then, unless Redis loses the last
//     token and its clock is set back at the same time, as in a failover to a replica with
//     a slower clock that had not received the token.
//   - Durability. gone hands over, it does not store. Put a queue in front if you need one.
//   - Exactly-once processing. A holder that dies after it received a message may not have
//     acted on it.
//
// # Who gets in
//
// Without [WithCurve], whoever reaches a node's port can speak to its handlers, so only
// nodes may reach it. With WithCurve everything is encrypted, and only nodes whose keys
// are allowed get in. SECURITY.md says who is trusted with what, and lists all limits.
//
// # Other lock services
//
// A lock of your own implements the four methods of [GoneLock]. If it can do more, it also
// implements [Expirer], [Fencer], [Waiter], [Passer], [Roster], [Checker] or [io.Closer].
// Package locktest checks it.
package gone
