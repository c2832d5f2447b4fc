package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/internal/freeport"
	"github.com/Diggs/go-one/pglock"
)

// A Postgres is one server, perhaps with a replica that confirms every commit, or a
// pgbouncer in front of it, which lends connections for a transaction.
type Postgres struct {
	dir     string
	primary *postgres
	replica *postgres
	pooler  *exec.Cmd
	at      string // of the pooler, or of all servers
}

// A postgres is one server.
type postgres struct {
	dir    string
	port   int
	cmd    *exec.Cmd
	exited chan struct{} // nil: it does not run
}

func startPostgres(dir string) (Service, error) {
	return startedPostgres(dir, func(*Postgres) error { return nil })
}

func startPostgresPair(dir string) (Service, error) {
	return startedPostgres(dir, func(p *Postgres) error {
		p.replica = &postgres{dir: filepath.Join(dir, "two"), port: freeport.Next()}
		p.at = fmt.Sprintf("127.0.0.1:%d,127.0.0.1:%d", p.primary.port, p.replica.port)
		return p.replicate()
	})
}

func startPostgresPooled(dir string) (Service, error) { return startedPostgres(dir, (*Postgres).pool) }

func startedPostgres(dir string, more func(*Postgres) error) (Service, error) {
	p := &Postgres{dir: dir, primary: &postgres{dir: filepath.Join(dir, "one"), port: freeport.Next()}}
	p.at = fmt.Sprintf("127.0.0.1:%d", p.primary.port)
	err := p.start()
	if err == nil {
		err = more(p)
	}
	if err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// start makes a database with the table of locks. Its directory, and the way there, has
// to be for the user that it runs as.
func (p *Postgres) start() error {
	if err := os.MkdirAll(p.primary.dir, 0o700); err != nil {
		return err
	}
	if os.Getuid() == 0 {
		uid, gid, err := postgresUser()
		for _, dir := range []string{p.dir, p.primary.dir} {
			if err == nil {
				err = os.Chown(dir, uid, gid)
			}
		}
		if err == nil {
			err = os.Chmod(filepath.Dir(p.dir), 0o711)
		}
		if err != nil {
			return err
		}
	}
	err := p.run("initdb", "--pgdata="+p.primary.dir, "--username=gone", "--auth=trust", "--locale=C", "--encoding=UTF8", "--no-sync", "--no-instructions")
	if err == nil {
		err = p.primary.start()
	}
	if err != nil {
		return err
	}
	pool, err := pgxpool.New(context.Background(), p.primary.url())
	if err != nil {
		return err
	}
	defer pool.Close()
	return pglock.Migrate(context.Background(), pool)
}

func (p *Postgres) place() (kind, addr string) {
	return "postgres", fmt.Sprintf("postgres://gone@%s/postgres?sslmode=disable&target_session_attrs=read-write", p.at)
}

func postgresLocks(cfg NodeConfig) gone.LockFactory {
	pool, err := pgxpool.New(context.Background(), cfg.Service)
	if err != nil {
		return func(string, string) (gone.GoneLock, error) { return nil, err }
	}
	return pglock.New(pool, func(l *pglock.Lock) { l.Expiry = cfg.TTL })
}

func (p *Postgres) stop() {
	if p.pooler != nil {
		_ = p.pooler.Process.Kill()
		_ = p.pooler.Wait()
	}
	for _, one := range []*postgres{p.primary, p.replica} {
		if one != nil {
			one.end(syscall.SIGQUIT)
		}
	}
}

// replicate makes the replica anew, and has the primary wait for it from then on.
func (p *Postgres) replicate() error {
	p.replica.end(syscall.SIGKILL)
	if err := os.RemoveAll(p.replica.dir); err != nil {
		return err
	}
	if err := p.run("pg_basebackup", "--pgdata="+p.replica.dir, "--host=127.0.0.1", fmt.Sprint("--port=", p.primary.port),
		"--username=gone", "--write-recovery-conf", "--checkpoint=fast", "--no-sync"); err != nil {
		return err
	}
	if err := p.replica.start(); err != nil {
		return err
	}
	if err := p.primary.set("synchronous_standby_names", "*"); err != nil {
		return err
	}
	return p.primary.until("SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')")
}

// promote has the replica take over; the old primary is the next replica.
func (p *Postgres) promote() error {
	p.primary, p.replica = p.replica, p.primary
	return p.primary.until("SELECT pg_promote()")
}

// pool puts a pgbouncer in front.
func (p *Postgres) pool() error {
	port := freeport.Next()
	p.at = fmt.Sprintf("127.0.0.1:%d", port)
	config := filepath.Join(p.dir, "pgbouncer.ini")
	if err := os.WriteFile(config, fmt.Appendf(nil, `[databases]
* = host=127.0.0.1 port=%d user=gone
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
server_login_retry = 1
`, p.primary.port, port), 0o644); err != nil {
		return err
	}
	cmd, err := serverCommand("pgbouncer", config)
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("pgbouncer is needed (make test installs it): %w", err)
	}
	p.pooler = cmd
	_, url := p.place()
	return untilTrue(url, "SELECT true")
}

func (p *Postgres) run(name string, args ...string) error {
	cmd, err := serverCommand(name, args...)
	if err != nil {
		return err
	}
	cmd.Dir = p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s (make test installs it): %w\n%s", name, err, out)
	}
	return nil
}

// serverBinary finds a program that Debian keeps off the PATH.
func serverBinary(name string) string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if _, err := exec.LookPath(name); err == nil || len(found) == 0 {
		return name
	}
	return found[len(found)-1]
}

// serverCommand runs a program as another user where this one is root, which it would
// refuse to be.
func serverCommand(name string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(serverBinary(name), args...)
	dieTogether(cmd)
	if os.Getuid() == 0 {
		uid, gid, err := postgresUser()
		if err != nil {
			return nil, err
		}
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	return cmd, nil
}

func postgresUser() (uid, gid int, err error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return 0, 0, err
	}
	uid, _ = strconv.Atoi(u.Uid)
	gid, _ = strconv.Atoi(u.Gid)
	return uid, gid, nil
}

func (s *postgres) url() string {
	return fmt.Sprintf("postgres://gone@127.0.0.1:%d/postgres?sslmode=disable", s.port)
}

// start returns when it answers. What is left of a server that was killed may keep the
// new one from starting for a moment.
func (s *postgres) start() error {
	var err error
	for end := clock() + 30*time.Second; clock() < end; time.Sleep(20 * time.Millisecond) {
		if s.exited == nil {
			if err := s.launch(); err != nil {
				return err
			}
		}
		if err = s.try("SELECT true"); err == nil {
			return nil
		}
		select {
		case <-s.exited:
			s.exited = nil
		default:
		}
	}
	return fmt.Errorf("postgres does not answer: %w; see %s.log", err, s.dir)
}

func (s *postgres) launch() error {
	cmd, err := serverCommand("postgres", "-D", s.dir, "-h", "127.0.0.1", "-p", strconv.Itoa(s.port),
		"-c", "unix_socket_directories=", "-c", "shared_buffers=16MB")
	if err != nil {
		return err
	}
	log, err := os.OpenFile(s.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("postgres is needed (make test installs it): %w", err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	s.cmd, s.exited = cmd, exited
	return nil
}

// end ends it: SIGINT is an orderly end, SIGKILL that of its main process, which its
// others notice.
func (s *postgres) end(how syscall.Signal) {
	if s.exited != nil {
		_ = s.cmd.Process.Signal(how)
		<-s.exited
		s.exited = nil
	}
}

// try runs one statement on a connection of its own, and wants it to say true.
func (s *postgres) try(sql string) error { return saysTrue(s.url(), sql) }

func saysTrue(url, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var yes bool
	if err := conn.QueryRow(ctx, sql, pgx.QueryExecModeSimpleProtocol).Scan(&yes); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	if !yes {
		return fmt.Errorf("%s: false", sql)
	}
	return nil
}

// until waits for a statement to say true.
func (s *postgres) until(sql string) error { return untilTrue(s.url(), sql) }

func untilTrue(url, sql string) (err error) {
	for end := clock() + 30*time.Second; clock() < end; time.Sleep(5 * time.Millisecond) {
		if err = saysTrue(url, sql); err == nil {
			return nil
		}
	}
	return fmt.Errorf("postgres: not within 30 s: %w", err)
}

// set changes a setting of a server that runs, and waits until it counts.
func (s *postgres) set(name, value string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, sql := range []string{fmt.Sprintf("ALTER SYSTEM SET %s = '%s'", name, value), "SELECT pg_reload_conf()"} {
		if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return s.until(fmt.Sprintf("SELECT current_setting('%s') = '%s'", name, value))
}

const onPostgres = "PostgreSQL"

// postgresScenarios are the ends of tenures, and what happens to servers.
func postgresScenarios() []Scenario {
	const second = 2 * ttl
	restart := func(how syscall.Signal) func(*Cluster) (func() error, error) {
		return func(c *Cluster) (func() error, error) {
			s := c.service.(*Postgres).primary
			s.end(how)
			c.pause(anytime(ttl))
			return func() error { return nil }, s.start()
		}
	}
	failover := func(before func(old *postgres) error) func(*Cluster) (func() error, error) {
		return func(c *Cluster) (func() error, error) {
			p := c.service.(*Postgres)
			err := before(p.primary)
			if err == nil {
				err = p.promote()
			}
			return p.replicate, err
		}
	}
	killed := func(s *postgres) error { s.end(syscall.SIGKILL); return nil }
	readOnly := func(s *postgres) error { return s.set("default_transaction_read_only", "on") }
	const back, promoted = "server back to a granted Lock or Extend", "promotion to a granted Lock or Extend"
	return []Scenario{
		handOverOn(onPostgres, "postgres-return", "PostgreSQL: the handler returns", startPostgres, ttl, 0),
		handOverOn(onPostgres, "pgbouncer-return", "PostgreSQL behind pgbouncer, transaction mode: the handler returns", startPostgresPooled, second, 1),
		killOn(onPostgres, "postgres-kill", "PostgreSQL: kill −9 of the holder", startPostgres, second, second, 0),
		killOn(onPostgres, "pgbouncer-kill", "PostgreSQL behind pgbouncer, transaction mode: kill −9 of the holder", startPostgresPooled, second, 2*second, 2),
		trouble{
			on: onPostgres, name: "postgres-restart", fault: "PostgreSQL is restarted (SIGINT), perhaps in a hand-over",
			service: startPostgres, ttl: 4 * second, long: 2, measure: back, begin: restart(syscall.SIGINT),
		}.scenario(),
		trouble{
			on: onPostgres, name: "postgres-killed", fault: "kill −9 of PostgreSQL, perhaps in a hand-over; it is started again",
			service: startPostgres, ttl: 4 * second, long: 2, measure: back, begin: restart(syscall.SIGKILL),
		}.scenario(),
		trouble{
			on: onPostgres, name: "pgbouncer-killed", fault: "kill −9 of PostgreSQL behind pgbouncer, transaction mode, perhaps in a hand-over; it is started again",
			service: startPostgresPooled, ttl: 4 * second, long: 2, measure: back, begin: restart(syscall.SIGKILL),
		}.scenario(),
		trouble{
			on: onPostgres, name: "postgres-failover", fault: "PostgreSQL's replica, which has confirmed every commit, is promoted, perhaps in a hand-over; the old primary turns read-only",
			service: startPostgresPair, ttl: 4 * second, long: 1, measure: promoted, begin: failover(readOnly),
		}.scenario(),
		trouble{
			on: onPostgres, name: "postgres-failover-killed", fault: "kill −9 of PostgreSQL's primary, perhaps in a hand-over; its replica, which has confirmed every commit, is promoted",
			service: startPostgresPair, ttl: 4 * second, long: 2, measure: promoted, begin: failover(killed),
		}.scenario(),
	}
}
