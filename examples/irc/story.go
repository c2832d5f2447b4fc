package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// story is the demo without a person: it does to the cluster what happens to
// clusters, while lines are posted, and ends with an error if anything was not
// as it should be. Nothing in it waits for a fixed time; every wait is for
// something that can be seen, with a bound.
type story struct {
	*demo
	tell func(format string, args ...any)
}

// patience bounds every single wait. It is far above what any step takes.
const patience = 30 * time.Second

func (s *story) run(ctx context.Context) error {
	s.tell("the page of the cluster: %s", s.cluster.page())
	for _, act := range []struct {
		title string
		play  func(context.Context) error
	}{
		{"One bot is in the room, and everybody posts through it", s.everybodyPosts},
		{"The bot's process is killed with kill -9 while lines are waiting", s.crash},
		{"The bot's process is frozen, and a worker dies with an entry in hand", s.freezeAndThaw},
		{"A rolling restart of all nodes while lines are posted", s.rollingRestart},
	} {
		s.tell("== %s", act.title)
		if err := act.play(ctx); err != nil {
			return err
		}
		if err := s.settle(ctx); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until the queue is empty and everything confirmed was heard, and
// asks the judge whether to go on.
func (s *story) settle(ctx context.Context) error {
	err := until(ctx, patience, "all that was confirmed is said", func() bool {
		return s.confirmQueue() == nil && s.room.everythingSaid()
	})
	if err == nil && s.room.verdict() != nil {
		err = errors.New("the judge has seen enough")
	}
	return err
}

// theBot waits until one node has the bot and the room agrees.
func (s *story) theBot(ctx context.Context) (node, error) {
	var holder node
	err := until(ctx, patience, "there is a bot in the room", func() bool {
		holder, _ = s.cluster.holder()
		return holder.nick != "" && holder.nick == s.room.bot()
	})
	return holder, err
}

// successor waits until the bot is another tenure than that of old.
func (s *story) successor(ctx context.Context, old node) (node, error) {
	began := time.Now()
	var holder node
	err := until(ctx, patience, old.name+" has a successor", func() bool {
		holder, _ = s.cluster.holder()
		return holder.token > old.token && holder.nick != "" && holder.nick == s.room.bot()
	})
	if err == nil {
		s.tell("%s took over from %s after %v (the lock's expiry is %v)",
			holder.name, old.name, time.Since(began).Round(time.Millisecond), expiry)
	}
	return holder, err
}

// crowd posts lines at the same time through the load balancer and returns a
// function that waits for all of them.
func (s *story) crowd(ctx context.Context, lines int, text string) (wait func() error) {
	var (
		posts sync.WaitGroup
		mu    sync.Mutex
		errs  error
		tries int
	)
	for i := range lines {
		posts.Go(func() {
			_, n, err := s.say(ctx, fmt.Sprintf("%s, %d of %d", text, i+1, lines))
			mu.Lock()
			defer mu.Unlock()
			tries += n
			errs = errors.Join(errs, err)
		})
	}
	return func() error {
		posts.Wait()
		s.tell("%d lines are confirmed, after %d posts", lines, tries)
		return errs
	}
}

func (s *story) everybodyPosts(ctx context.Context) error {
	bot, err := s.theBot(ctx)
	if err != nil {
		return err
	}
	s.tell("it is %s, with fencing token %d", bot.name, bot.token)
	for _, n := range s.cluster.snapshot() {
		if n.role == "web" {
			if _, _, err := s.sayThrough(ctx, "http://"+n.http, "posted to "+n.name); err != nil {
				return err
			}
		}
	}
	if _, _, err := s.say(ctx, "posted to the load balancer"); err != nil {
		return err
	}
	if s.workers > 0 {
		_, err = s.enqueue("put into the queue")
	}
	return err
}

// crash kills the bot the moment it was heard: then it pauses for the flood
// limits and its hand is empty, while the other lines are on their way to it.
// Some of their senders cannot know what became of them; they repeat them.
func (s *story) crash(ctx context.Context) error {
	bot, err := s.theBot(ctx)
	if err != nil {
		return err
	}
	before := s.room.tally().said
	wait := s.crowd(ctx, 4, "posted around the crash")
	for range s.workers {
		if _, err := s.enqueue("queued before the crash"); err != nil {
			return err
		}
	}
	if err := until(ctx, patience, "the first of them is heard", func() bool { return s.room.tally().said > before }); err != nil {
		return err
	}
	if err := s.kill(bot); err != nil {
		return err
	}
	s.tell("%s is dead", bot.name)
	if _, err := s.successor(ctx, bot); err != nil {
		return err
	}
	if err := wait(); err != nil {
		return err
	}
	return s.cluster.start(bot.name)
}

// freezeAndThaw stops the bot's process in its tracks. It cannot leave the
// room; it must not speak again.
func (s *story) freezeAndThaw(ctx context.Context) error {
	old, err := s.theBot(ctx)
	if err != nil {
		return err
	}
	if err := s.freeze(old); err != nil {
		return err
	}
	s.tell("%s is frozen, and still in the room", old.name)
	_, _, claimsBefore := s.cluster.counts()
	wait := s.crowd(ctx, 2, "posted while the bot is frozen")
	victim, err := s.killWorkerWithEntry(ctx, old)
	if err != nil {
		return err
	}
	if _, err := s.successor(ctx, old); err != nil {
		return err
	}
	if err := wait(); err != nil {
		return err
	}
	if !s.room.present(old.nick) {
		return fmt.Errorf("%s should still be in the room: it is frozen", old.nick)
	}
	if victim != "" {
		if err := s.cluster.start(victim); err != nil {
			return err
		}
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	if _, _, claims := s.cluster.counts(); victim != "" && claims == claimsBefore {
		return errors.New("no worker has claimed the dead worker's entry")
	}
	s.tell("%s wakes up", old.name)
	if err := s.cluster.thaw(old.name); err != nil {
		return err
	}
	if err := until(ctx, patience, old.nick+" leaves", func() bool { return !s.room.present(old.nick) }); err != nil {
		return err
	}
	s.tell("%s has left the room without another word", old.nick)
	return nil
}

// killWorkerWithEntry kills a worker that has taken an entry from the queue and
// waits for the bot to receive it. It is stopped first, so that it can't get
// rid of the entry while we look. Without a worker besides the bot's node there
// is nothing to kill. There are always two web nodes, so somebody is left to
// take over.
func (s *story) killWorkerWithEntry(ctx context.Context, bot node) (victim string, err error) {
	var workers []string
	for _, n := range s.cluster.snapshot() {
		if n.role == "worker" && n.name != bot.name {
			workers = append(workers, n.name)
		}
	}
	if len(workers) == 0 {
		return "", nil
	}
	for victim == "" { // the first entry may go to the frozen node, if that was waiting for one
		if _, err := s.enqueue("queued while the bot is frozen"); err != nil {
			return "", err
		}
		_ = until(ctx, 300*time.Millisecond, "", func() bool {
			i := slices.IndexFunc(workers, func(w string) bool { return s.pending(w) > 0 })
			if i >= 0 {
				victim = workers[i]
			}
			return i >= 0
		})
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if victim == "" {
			continue
		}
		if err := s.cluster.freeze(victim); err != nil {
			return "", err
		}
		if s.pending(victim) == 0 {
			if err := s.cluster.thaw(victim); err != nil {
				return "", err
			}
			victim = ""
		}
	}
	s.tell("%s is dead, and its entry is still in the queue", victim)
	return victim, s.cluster.kill(victim)
}

// rollingRestart is a deploy: every node ends with SIGTERM and comes back, one
// after the other. Planned hand-overs cost nobody anything: each post is
// confirmed at the first try, so no send of it was refused or left unknown. The
// cluster's counts don't tell: a node that was frozen may only now report what
// became of an earlier post.
func (s *story) rollingRestart(ctx context.Context) error {
	joinsBefore := s.room.tally().joins
	var (
		posters sync.WaitGroup
		mu      sync.Mutex
		errs    error
		lines   int
		done    = make(chan struct{})
	)
	for poster := range 2 {
		posters.Go(func() {
			for i := 1; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				tag, posts, err := s.say(ctx, fmt.Sprintf("poster %d, line %d during the restart", poster+1, i))
				if err == nil && posts > 1 {
					err = fmt.Errorf("[%s] took %d posts in a planned restart", tag, posts)
				}
				mu.Lock()
				lines++
				errs = errors.Join(errs, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	var err error
	for _, n := range s.cluster.snapshot() {
		if err = s.restart(n.name); err != nil {
			break
		}
		s.tell("%s is back", n.name)
	}
	close(done)
	posters.Wait()
	if err = errors.Join(err, errs); err != nil {
		return err
	}
	if _, err := s.theBot(ctx); err != nil {
		return err
	}
	s.tell("%d nodes restarted, the bot moved %d times, and %d lines were each confirmed at the first try",
		len(s.cluster.snapshot()), s.room.tally().joins-joinsBefore, lines)
	return nil
}

func (s *story) summary() string {
	t := s.room.tally()
	unknowns, refusals, claims := s.cluster.counts()
	return fmt.Sprintf("%d lines posted, %d confirmed, %d said, each once. A bot joined %d times, and never did two speak.\n"+
		"Repeated by their senders: %d sends of unknown outcome, %d not delivered. Queue entries claimed from dead workers: %d.",
		t.posted, t.confirmed, t.said, t.joins, unknowns, refusals, claims)
}
