package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/gomodule/redigo/redis"
)

// worker is the second use case: message_queue -> N x background_worker ->
// irc_chat_room. The queue is a Redis Stream, read by all workers as one
// consumer group. An entry leaves the queue only after SendData returned nil;
// so an entry of a worker that died is still there, and another worker claims
// it.
type worker struct {
	gone     *gone.Gone
	id, name string
	redis    *redis.Pool
	log      *slog.Logger
}

const (
	queueGroup = "workers"
	claimAfter = sendWithin + 2*time.Second // a worker that has not shown for so long that it keeps an entry is dead
)

func queueKey(id string) string { return id + ":queue" }

type entry struct{ id, text string }

func (w *worker) work(stop context.Context) error {
	if err := w.join(); err != nil {
		return err
	}
	w.log.Info("ready", "addr", w.gone.Addr())
	for stop.Err() == nil {
		e, err := w.next(stop)
		if err != nil {
			w.log.Warn("queue", "why", err.Error())
			pause(stop, time.Second)
		}
		if e != nil {
			w.deliver(stop, *e)
		}
	}
	return nil
}

// deliver repeats an entry until it is received. After ErrNotDelivered that is
// safe anyway. After ErrOutcomeUnknown it is safe here, because the entry's id
// is the line's tag and the bot says no tag twice. A worker that is told to
// stop finishes the attempt it is in; an entry that is still undelivered then
// is left for the others to claim.
func (w *worker) deliver(stop context.Context, e entry) {
	for {
		err := w.gone.SendData(w.id, payload(e.id, e.text))
		if err == nil {
			if err := w.done(e); err != nil { // it will be claimed and sent again, and the bot will recognise it
				w.log.Warn("queue", "why", err.Error())
			}
			return
		}
		kind := "not delivered"
		if errors.Is(err, gone.ErrOutcomeUnknown) {
			kind = "unknown"
		}
		w.log.Warn(kind, "tag", e.id, "why", err.Error())
		if pause(stop, 100*time.Millisecond); stop.Err() != nil {
			return
		}
		if err := w.keep(e); err != nil {
			w.log.Warn("queue", "why", err.Error())
		}
	}
}

// next is an entry whose worker has died, or a new one, or nil when there is
// none for a while.
func (w *worker) next(ctx context.Context) (*entry, error) {
	conn, err := w.redis.GetContext(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	reply, err := redis.Values(conn.Do("XAUTOCLAIM", queueKey(w.id), queueGroup, w.name,
		claimAfter.Milliseconds(), "0-0", "COUNT", 1))
	if err != nil {
		return nil, err
	}
	if e := firstEntry(reply[1]); e != nil {
		w.log.Info("claimed", "tag", e.id)
		return e, nil
	}
	reply, err = redis.Values(conn.Do("XREADGROUP", "GROUP", queueGroup, w.name,
		"COUNT", 1, "BLOCK", 250, "STREAMS", queueKey(w.id), ">"))
	if errors.Is(err, redis.ErrNil) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	stream, err := redis.Values(reply[0], nil)
	if err != nil {
		return nil, err
	}
	return firstEntry(stream[1]), nil
}

// firstEntry reads [[id, [field, value, ...]], ...].
func firstEntry(reply any) *entry {
	entries, err := redis.Values(reply, nil)
	if err != nil || len(entries) == 0 {
		return nil
	}
	parts, err := redis.Values(entries[0], nil)
	if err != nil || len(parts) != 2 {
		return nil
	}
	id, err := redis.String(parts[0], nil)
	if err != nil {
		return nil
	}
	fields, _ := redis.StringMap(parts[1], nil)
	return &entry{id: id, text: fields["text"]}
}

func (w *worker) join() error {
	conn := w.redis.Get()
	defer conn.Close()
	_, err := conn.Do("XGROUP", "CREATE", queueKey(w.id), queueGroup, "0", "MKSTREAM")
	if err != nil && strings.HasPrefix(err.Error(), "BUSYGROUP") {
		return nil
	}
	return err
}

// keep says that the entry still has a worker.
func (w *worker) keep(e entry) error {
	conn := w.redis.Get()
	defer conn.Close()
	_, err := conn.Do("XCLAIM", queueKey(w.id), queueGroup, w.name, 0, e.id, "JUSTID")
	return err
}

func (w *worker) done(e entry) error {
	conn := w.redis.Get()
	defer conn.Close()
	_ = conn.Send("MULTI")
	_ = conn.Send("XACK", queueKey(w.id), queueGroup, e.id)
	_ = conn.Send("XDEL", queueKey(w.id), e.id)
	_, err := conn.Do("EXEC")
	return err
}

// pause waits for d, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
