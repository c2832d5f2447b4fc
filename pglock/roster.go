package pglock

import (
	"time"

	"github.com/jackc/pgx/v5"
)

// The statements of a roster. An entry is a row whose id is a NUL, the roster's name, a
// NUL, and the value that is listed; no id of a lock has a NUL. The row's own value is
// the note. It is written without a wait for the disk or for replicas: whoever is alive
// enters again and again.
const (
	// ofRoster are the entries of one roster. $1 is a NUL and its name.
	ofRoster = `l.id >= encode($1::bytea, 'escape') || chr(92) || '000' AND l.id < encode($1::bytea, 'escape') || chr(92) || '001'`

	// alive are those whose time is not over. An end that lies too far ahead is of a clock
	// that was set back since.
	alive = `l.expires > now AND l.expires <= now + 2 * l.ttl`

	// renewEntry makes an entry last for a TTL from now. $1 id, $2 note, $3 TTL (ms).
	// Returns a row when there is such an entry, over or not.
	renewEntry = `WITH renewed AS (
	UPDATE %[1]s SET value = encode($2::bytea, 'escape'), ttl = $3::bigint * interval '1 ms',
		expires = clock_timestamp() + $3::bigint * interval '1 ms'
	WHERE id = encode($1::bytea, 'escape') RETURNING 1
)
SELECT set_config('synchronous_commit', 'off', true) FROM renewed`

	// enter makes an entry, in the place of one that is over: so rows are no more than
	// there were nodes at one time, and nobody needs the right to delete. $1 what all of
	// the roster begin with, $2 id, $3 note, $4 TTL (ms).
	enter = `WITH clock AS (SELECT clock_timestamp() AS now, $4::bigint * interval '1 ms' AS ttl),
over AS (
	SELECT id FROM %[1]s AS l, clock WHERE ` + ofRoster + ` AND NOT (` + alive + `) LIMIT 1 FOR UPDATE OF l SKIP LOCKED
),
reused AS (
	UPDATE %[1]s AS l SET id = encode($2::bytea, 'escape'), value = encode($3::bytea, 'escape'), ttl = clock.ttl, expires = now + clock.ttl
	FROM clock WHERE id = (SELECT id FROM over) RETURNING 1
),
made AS (
	INSERT INTO %[1]s (id, value, secret, token, ttl, expires)
	SELECT encode($2::bytea, 'escape'), encode($3::bytea, 'escape'), '', 0, ttl, now + ttl FROM clock WHERE NOT EXISTS (SELECT FROM reused)
	ON CONFLICT (id) DO UPDATE SET value = excluded.value, ttl = excluded.ttl, expires = excluded.expires
)
SELECT set_config('synchronous_commit', 'off', true)`

	// leave ends an entry. $1 id.
	leave = `WITH ended AS (UPDATE %[1]s SET expires = '-infinity' WHERE id = encode($1::bytea, 'escape'))
SELECT set_config('synchronous_commit', 'off', true)`

	// entered returns whether the server is a standby, and the id and the note of each entry
	// that is alive.
	entered = `SELECT pg_is_in_recovery(), decode(l.id, 'escape'), decode(l.value, 'escape')
FROM (SELECT clock_timestamp() AS now) AS clock LEFT JOIN %[1]s AS l ON ` + ofRoster + ` AND ` + alive
)

type roster struct{ renew, enter, leave, entered statement }

// roster is what the ids of all entries begin with, but for a NUL.
func (l *Lock) roster() []byte { return []byte("\x00" + l.id) }

func (l *Lock) entry() []byte { return []byte("\x00" + l.id + "\x00" + l.value) }

// Enter implements [gone.Roster].
func (l *Lock) Enter(note string, ttl time.Duration) error {
	ms := milliseconds(ttl)
	n, err := l.ask(l.in.roster.renew, ignore, l.entry(), []byte(note), ms)
	if err == nil && n == 0 {
		_, err = l.ask(l.in.roster.enter, ignore, l.roster(), l.entry(), []byte(note), ms)
	}
	if err != nil {
		return l.failed("enter", err)
	}
	return nil
}

// Leave implements [gone.Roster].
func (l *Lock) Leave() error {
	if _, err := l.ask(l.in.roster.leave, ignore, l.entry()); err != nil {
		return l.failed("leave", err)
	}
	return nil
}

// Entered implements [gone.Roster].
func (l *Lock) Entered() (map[string]string, error) {
	notes := map[string]string{}
	_, err := l.ask(l.in.roster.entered, func(row pgx.Rows) error {
		var (
			standby  bool
			id, note []byte
		)
		if err := row.Scan(&standby, &id, &note); err != nil {
			return err
		}
		if standby { // what it knows may be old
			return errStandby
		}
		if id != nil {
			notes[string(id[len(l.roster())+1:])] = string(note)
		}
		return nil
	}, l.roster())
	if err != nil {
		return nil, l.failed("list", err)
	}
	return notes, nil
}
