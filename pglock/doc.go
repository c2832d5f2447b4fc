// Package pglock keeps the locks of gone in PostgreSQL (12 or later):
//
//	if err := pglock.Migrate(ctx, pool); err != nil { … }
//	g, err := gone.NewGone(addr, pglock.New(pool))
//
// A lock is a row. [Migrate] makes its table; if you keep your own migrations, put
// [Migration] among them. The columns are text, for psql:
//
//	SELECT id, value, token, expires FROM gone_locks WHERE expires > now();
//
// # What it promises
//
// All that [gone.GoneLock] and its extras ask for. A hold goes by the server's clock alone.
// Each request is one statement and one round trip, outside any transaction. It takes at
// most a quarter of the TTL or 5 s, and can be repeated: whoever lost an answer asks again
// and hears what is true. A server that can't be reached, has too many connections, shuts
// down, only reads, or is blocked leaves the outcome open. Only a row that says so means
// that the lock is lost.
//
// A token is the server's clock in microseconds, and at least one more than the token
// before. The row stays when the lock is released, so tokens increase even when the clock
// is set back. When the row is lost, or an old dump restored, the clock sees to it. You may
// delete expired rows of ids that are no longer used.
//
// What is passed on ([Lock.Pass]) is the same row, and a node's entry in the roster
// ([Lock.Enter]) is one whose id begins with \000. Such a row takes the place of one
// that is over, so there are no more than there were nodes at one time.
//
// # Connections
//
// All locks that are made from one pool share up to 4 connections of their own, whose
// settings are the pool's, and one more while any of them waits. A connection is used
// for 10 s at most, and given up at an error that may be due to a wrong server.
// So a lock follows when the address leads to another server, or another of several
// hosts takes writes (target_session_attrs=read-write). Until then two may hold it where
// the old server still takes writes, for no longer than the TTL and those 10 s.
//
// A waiting lock costs nothing but a place in a list: Lock and Unlock notify (NOTIFY), and
// a few queries in each TTL look up the ends of holds for all ids of a process. A pooler
// that lends connections for a transaction (pgbouncer, pool_mode=transaction) keeps
// notifications to itself. Behind a pooler nothing is prepared and nobody listens: waiting
// locks poll every second, or every tenth of a TTL below 10 s, all with one query.
//
// # What it needs
//
// The rights to SELECT, INSERT and UPDATE on the table. [Lock.Check] says what is
// missing.
//
// The server must not forget what it has answered: synchronous_commit must not be off, and
// a replica that takes over in a failover must have confirmed every commit
// (synchronous_standby_names). Otherwise it may not know who holds a lock, and two may hold
// it, until the first hears of it at its next Extend.
//
// A hold is extended by changing its row in place (HOT), so the table does not grow. A
// transaction that stays open for long in that database, such as a dump, makes the server
// keep old versions of the rows meanwhile, as with any table.
//
// # The server's clock
//
// When it is set back, holds last longer: whoever competes cuts what is left of one to
// its own TTL. When it leaps forward, holds end early, and another may get the lock
// while the first still believes in its lease; the token tells them apart.
package pglock
