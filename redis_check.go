package gone

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
	"time"

	"github.com/Diggs/go-one/internal/redisconn"
)

var (
	//go:embed lua/check.lua
	checkLua    string
	checkScript = redisconn.NewScript(2, checkLua)
)

// Check implements [Checker]. It tries every command that the lock needs, writes
// the helper key as it is, and has as many replicas confirm that as Lock would. It
// also asks for INFO, if it may.
func (l *RedisLock) Check(ctx context.Context) error {
	var advice []string
	err := l.request(ctx, func(ctx context.Context) error {
		r, err := l.redis.Eval(ctx, l.Replicas, checkScript, l.key(), l.counter(), l.channel(), redisconn.Probe)
		if err != nil {
			return err
		}
		if r[0] == 2 {
			advice = append(advice, "PUBLISH is refused: who waits for the lock polls")
		}
		if err := l.redis.Deaf(); err != nil {
			advice = append(advice, fmt.Sprintf("SUBSCRIBE is refused (%v): who waits for the lock polls", err))
		}
		info, err := l.redis.Info(ctx, l.key())
		if policy := info["maxmemory_policy"]; err == nil && policy != "" && info["maxmemory"] != "0" && policy != "noeviction" {
			advice = append(advice, fmt.Sprintf("maxmemory-policy is %s: a lock may be evicted, and another take it; want noeviction", policy))
		}
		if err == nil && info["cluster_enabled"] == "1" && l.redis.Plain() {
			return fmt.Errorf("this is a Redis Cluster, of which it has one node: %s", redisconn.Clustered)
		}
		return nil
	})
	switch {
	case err != nil:
		return l.failed("check", err)
	case len(advice) > 0:
		return fmt.Errorf("%w: redis lock %q: %s", ErrDegraded, l.id, strings.Join(advice, "; "))
	}
	return nil
}

// named adds which commands of a script were refused: Redis does not say it.
func (l *RedisLock) named(err error) error {
	if err == nil || !redisconn.Refused(err) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(l.TTL()/4, time.Second))
	defer cancel()
	if _, which := l.redis.Eval(ctx, 0, checkScript, l.key(), l.counter(), l.channel(), redisconn.Probe); which != nil {
		return fmt.Errorf("%w (%w)", err, which)
	}
	return err
}
