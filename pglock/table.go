package pglock

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// DefaultSchema and DefaultTable are where locks are kept unless they set another place.
const (
	DefaultSchema = "public"
	DefaultTable  = "gone_locks"
)

// maxIdentifier is the longest name that PostgreSQL does not cut, in bytes.
const maxIdentifier = 63

// createTable makes a table with a row for each id that was ever locked. Text columns
// are in PostgreSQL's escape format, as ids and values may be any bytes, and the
// database in any encoding. Their order is that of bytes: an index in the order of a
// language breaks when an update of the system changes that. Only the id has an index,
// and pages are half empty, so that all updates are done in place (HOT).
const createTable = `CREATE TABLE IF NOT EXISTS %s (
	id      text COLLATE "C" PRIMARY KEY,
	value   text NOT NULL,        -- of the holder, or of who held it last
	secret  text NOT NULL,        -- of the hold
	token   bigint NOT NULL,      -- of the hold
	ttl     interval NOT NULL,    -- of the hold
	expires timestamptz NOT NULL  -- -infinity once released
) WITH (fillfactor = 50)`

// The statements of a table. Each is a transaction of its own and one round trip.
//
// They go by the server's clock alone, read once a statement, and before it waits for
// anybody: a hold that begins or is extended lasts at least for its TTL after the
// statement was sent. A hold lives while expires is ahead of the clock, and is the
// caller's when it has his secret.
const (
	// acquire takes the lock, or renews the hold that has the secret already.
	// $1 id, $2 value, $3 secret, $4 TTL (ms), $5 channel.
	// Returns the token and 'taken', or the token of the hold that is in the way, how
	// long that lasts (µs), and: 'held', 'overlong' when the end is further off than its
	// holder has ever asked for, as when the clock was set back, or 'over' when it is the
	// secret's own, and has ended. No row at all: others were quicker.
	//
	// Who finds it held writes nothing, not even a lock of the row. Where this looked at
	// a row that others have just changed, ON CONFLICT looks again. By then its clock is an
	// old one: a hold of the secret's that was extended meanwhile is not cut back to it.
	acquire = `WITH clock AS (SELECT clock_timestamp() AS now, $4::bigint * interval '1 ms' AS ttl),
taken AS (
	INSERT INTO %[1]s AS l (id, value, secret, token, ttl, expires)
	SELECT encode($1::bytea, 'escape'), encode($2::bytea, 'escape'), $3::text, (extract(epoch FROM now) * 1000000)::bigint, ttl, now + ttl
	FROM clock
	WHERE NOT EXISTS (SELECT FROM %[1]s WHERE id = encode($1::bytea, 'escape') AND (expires > now) <> (secret = $3::text))
	ON CONFLICT (id) DO UPDATE SET value = excluded.value, secret = excluded.secret, ttl = excluded.ttl,
		expires = CASE WHEN l.secret = excluded.secret THEN greatest(l.expires, excluded.expires) ELSE excluded.expires END,
		token = CASE WHEN l.secret = excluded.secret THEN l.token ELSE greatest(l.token + 1, excluded.token) END
	WHERE (l.expires > excluded.expires - excluded.ttl) = (l.secret = excluded.secret)
	RETURNING token
)
SELECT token, 0::bigint, 'taken', pg_notify($5::text, token || ' ' || $4::bigint || ' ' || encode($1::bytea, 'hex'))::text FROM taken
UNION ALL
SELECT token, ` + remaining + `,
	CASE WHEN secret = $3::text THEN 'over' WHEN expires > now + l.ttl THEN 'overlong' ELSE 'held' END, NULL
FROM %[1]s AS l, clock WHERE id = encode($1::bytea, 'escape') AND NOT EXISTS (SELECT FROM taken)`

	// remaining is how long a hold lasts, in µs, at most its TTL. An infinity can't be
	// subtracted from.
	remaining = `(extract(epoch FROM greatest(least(expires, now + l.ttl), now) - now) * 1000000)::bigint`

	// cut ends an overlong hold after its TTL. $1 id, $2 token.
	cut = `UPDATE %[1]s SET expires = clock_timestamp() + ttl
WHERE id = encode($1::bytea, 'escape') AND token = $2::bigint AND expires > clock_timestamp() + ttl`

	// extend makes the hold last for its TTL from now; it never makes one. With the
	// token: a copy of Lock's request that comes late must not look like this hold.
	// $1 id, $2 secret, $3 token. Changes one row, or none.
	extend = `UPDATE %[1]s SET expires = clock_timestamp() + ttl
WHERE id = encode($1::bytea, 'escape') AND secret = $2::text AND token = $3::bigint AND expires > clock_timestamp()`

	// release ends the hold with the secret, which stays: a copy of Lock's request that
	// comes late finds that it is over. It does not wait for the disk or for replicas: a
	// crash may forget it, and then the hold lasts for its TTL, but not once another has
	// been granted the lock, as what is written comes in order. $1 id, $2 secret,
	// $3 channel.
	release = `WITH released AS (
	UPDATE %[1]s SET expires = '-infinity' WHERE id = encode($1::bytea, 'escape') AND secret = $2::text AND expires > '-infinity'
	RETURNING token
)
SELECT pg_notify($3::text, token || ' 0 ' || encode($1::bytea, 'hex')), set_config('synchronous_commit', 'off', true) FROM released`

	// pass ends the hold with the secret and the token, and begins one for the lock that
	// has the ticket as its secret, whose Lock renews it. $1 id, $2 secret, $3 token,
	// $4 value, $5 ticket, $6 how long it has for that (ms), $7 channel. Returns a row when
	// it was done, now or before.
	pass = `WITH clock AS (SELECT clock_timestamp() AS now, $6::bigint * interval '1 ms' AS ttl),
passed AS (
	UPDATE %[1]s AS l SET value = encode($4::bytea, 'escape'), secret = $5::text, ttl = clock.ttl, expires = now + clock.ttl,
		token = greatest(l.token + 1, (extract(epoch FROM now) * 1000000)::bigint)
	FROM clock WHERE id = encode($1::bytea, 'escape') AND secret = $2::text AND token = $3::bigint AND expires > now
	RETURNING token
)
SELECT pg_notify($7::text, token || ' ' || $6::bigint || ' ' || encode($1::bytea, 'hex'))::text FROM passed
UNION ALL
SELECT NULL FROM %[1]s, clock
WHERE id = encode($1::bytea, 'escape') AND secret = $5::text AND expires > now AND NOT EXISTS (SELECT FROM passed)`

	// holder returns whether the server is a standby, and value and token of the hold
	// that lives. $1 id.
	holder = `SELECT pg_is_in_recovery(), decode(value, 'escape'), token
FROM (SELECT) AS one LEFT JOIN %[1]s ON id = encode($1::bytea, 'escape') AND expires > clock_timestamp()`

	// look returns for each of many ids whether the server is a standby, the id's place
	// in the list, the token of the last hold, and how long it lasts, 0 when it is over.
	// $1 ids.
	look = `SELECT pg_is_in_recovery(), wanted.place, coalesce(token, 0), coalesce(` + remaining + `, 0)
FROM (SELECT clock_timestamp() AS now) AS clock, unnest($1::bytea[]) WITH ORDINALITY AS wanted (id, place)
LEFT JOIN %[1]s AS l ON l.id = encode(wanted.id, 'escape')`
)

// A table knows its statements and its channel, which carries the news of all its ids.
type table struct {
	names   pgx.Identifier // schema and table
	name    string         // both, as SQL writes them
	channel string

	acquire, cut, extend, release, pass, holder, look statement

	roster roster
}

// A statement is what an error says of it, and its text.
type statement struct{ what, sql string }

// tableOf checks the names of a schema and a table, where "" is the default.
func tableOf(schema, name string) (*table, error) {
	schema, name = cmp.Or(schema, DefaultSchema), cmp.Or(name, DefaultTable)
	for _, s := range []string{schema, name} {
		if len(s) > maxIdentifier || strings.ContainsRune(s, 0) {
			return nil, fmt.Errorf("gone: pg lock: schema or table %q, want at most %d bytes and no NUL", s, maxIdentifier)
		}
	}
	names := pgx.Identifier{schema, name}
	t := &table{names: names, name: names.Sanitize(), channel: "gone:" + schema + "." + name}
	if len(t.channel) > maxIdentifier {
		sum := sha256.Sum256([]byte(t.channel))
		t.channel = "gone:" + hex.EncodeToString(sum[:16])
	}
	of := func(verb, text string) statement { return statement{verb + " " + t.name, fmt.Sprintf(text, t.name)} }
	t.acquire, t.cut, t.extend = of("INSERT INTO", acquire), of("UPDATE", cut), of("UPDATE", extend)
	t.release, t.holder, t.look = of("UPDATE", release), of("SELECT FROM", holder), of("SELECT FROM", look)
	t.pass = of("UPDATE", pass)
	t.roster = roster{of("UPDATE", renewEntry), of("INSERT INTO", enter), of("UPDATE", leave), of("SELECT FROM", entered)}
	return t, nil
}

// Migration returns the statement that makes the table, for those who keep migrations of
// their own. configure is that of [New]. The statement can be repeated. The schema must
// exist.
func Migration(configure ...func(*Lock)) (string, error) {
	t, err := configured(configure).table()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(createTable, t.name), nil
}

// Migrate makes the table and its schema, unless they exist. configure is that of [New]. It
// can be repeated, and several nodes may call it at once. If the table exists, it needs no
// rights.
func Migrate(ctx context.Context, pool *pgxpool.Pool, configure ...func(*Lock)) error {
	t, err := configured(configure).table()
	if err != nil {
		return err
	}
	if pool == nil {
		return errNoPool
	}
	// Whatever the default is: what others have made meanwhile has to be seen.
	err = pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		return t.migrate(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("gone: pg lock: making %s: %w", t.name, err)
	}
	return nil
}

func (t *table) migrate(ctx context.Context, tx pgx.Tx) error {
	var table, schema bool
	// Not to_regclass, which goes on to say what it has said once in a transaction, and
	// asks for rights.
	find := func() error {
		return tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_class WHERE relname = $2 AND relnamespace = s.oid), s.oid IS NOT NULL
			FROM (SELECT) AS one LEFT JOIN pg_namespace AS s ON nspname = $1`, pgx.QueryExecModeSimpleProtocol, t.names[0], t.names[1]).
			Scan(&table, &schema)
	}
	if err := find(); err != nil || table {
		return err
	}
	// One node at a time: IF NOT EXISTS alone fails when two begin at once.
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('gone: migrate'))`); err != nil {
		return err
	}
	if err := find(); err != nil || table {
		return err
	}
	if !schema {
		if _, err := tx.Exec(ctx, "CREATE SCHEMA "+t.names[:1].Sanitize()); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, fmt.Sprintf(createTable, t.name))
	return err
}

func configured(configure []func(*Lock)) *Lock {
	l := &Lock{}
	for _, f := range configure {
		f(l)
	}
	return l
}

func (l *Lock) table() (*table, error) { return tableOf(l.Schema, l.Table) }
