/*
Gone shows and steers a cluster of gone: who holds an id, since when, and what waits.

	gone nodes                   the nodes, with what each holds
	gone ids                     the ids that are held, and by whom
	gone holder ID               who holds an id
	gone watch ID                a line whenever that changes, until interrupted
	gone send ID [DATA|-]        send to the handler of an id
	gone request ID [DATA|-]     the same, and print its reply
	gone drain NODE              have a node hand everything over and hold nothing
	gone resume NODE             end that
	gone move ID [NODE]          hand an id over, by default to the node with most room
	gone check                   what is wrong: with the lock service, nodes, links
	gone bundle                  a report for an issue, as JSON
	gone bench [ID]              how long sends and requests take
	gone completion SHELL        completion for bash, zsh or fish
	gone version                 the version of this command
	gone help                    this text

A NODE is an address as "gone nodes" prints it; tcp:// may be left out. DATA is read from
the standard input if it is -; without it the message is empty. DATA that begins with -
comes after --. The reply to a request is printed as it is.

# The lock service

The command asks the lock service that the nodes use, which one of these names:

	-redis URL             redis://host[:6379][/db], rediss://… (TLS), unix:///path
	-redis-sentinel URL    redis://host:26379?master_name=NAME[&addr=host:port…]
	-redis-cluster URL     redis://host:6379[?addr=host:port…]
	-etcd ENDPOINTS        host:2379 or https://host:2379, with commas between several
	-postgres DSN          postgres://host/database, or host=… dbname=…

These have to be what the nodes have:

	-cluster NAME          the cluster; "gone" by default
	-prefix TEXT           before each id in Redis or etcd
	-schema, -table NAME   where the locks are in PostgreSQL
	-etcd-ca, -etcd-cert, -etcd-key FILE
	                       certificates for etcd, in PEM
	-max-size BYTES        of one message; 1 MiB by default
	-keys FILE             the CURVE keys of this command: a public and a secret one
	-allowed FILE          the public CURVE keys of the nodes, where they differ

Others:

	-o table|json          how to print
	-timeout DURATION      for all that a command does, but for watch and bench; 5s
	-addr tcp://HOST:PORT  where nodes reach this command
	-bind tcp://HOST:PORT  where it listens instead
	-v                     show the library's log on the standard error

Options may stand anywhere. Each can be set in the environment as well: -max-size is
GONE_MAX_SIZE. The command line takes precedence.

# Secrets

A password on the command line is refused: other users of the machine see it there, and
the shell keeps it. Put it into the environment (GONE_REDIS with the whole URL), or into a
file with the URL as its only line, and give that as @FILE. A user and a password for etcd
stand in its first endpoint, https://user:password@host:2379. PostgreSQL's own PGPASSWORD
and PGPASSFILE work. Keys are words in a file, with spaces or new lines between them; or
GONE_PUBLIC_KEY and GONE_SECRET_KEY. They are those of [gone.WithCurve].

# The network

This command is a node of the cluster for as long as it runs, with weight 0: it holds
nothing, competes for nothing, and is not listed. So nodes must be able to connect to it,
and it to them and to the lock service: a node answers over a connection of its own. It
listens at a free port of the address that leads to the nodes: on this machine alone where
they are on 127.0.0.1. Behind a NAT or a firewall choose a port with -addr, and let it
through; where the address that others see is not this machine's, add -bind tcp://*:PORT.

Any node answers questions about itself. It drains, resumes and moves for others only if it
was started with [gone.WithControl].

# Exit codes

	0  done; for check: warnings at most
	1  failed; for send and request: not received (busy, too large …), and sending again is safe
	2  misused
	3  nobody holds the id, or there is no such node
	4  the lock service or a node can't be reached, or did not answer in time
	5  outcome unknown: it may have been received, or may yet be done
	6  refused: a key is not allowed, or a node does not let others steer it
	7  the handler received the request and failed it

An interrupt ends watch and bench with 0, all else with 130. The reason is one line on the
standard error.

# JSON

With -o json each command that prints something prints one document; watch prints one per
line. Times are RFC 3339, durations are in seconds. A reply is in "reply" if it is UTF-8,
else in "base64".

	nodes    [{"addr", "since", "held", "weight", "draining", "version"}]
	ids      [{"id", "addr", "token", "since", "deadline", "stopping", "waiting", "waitingBytes", "received"}]
	holder   {"id", "addr", "token"}
	watch    {"time", "id", "addr", "token"}, without the last two while nobody holds it; or {"time", "id", "error"}
	send     {"id", "seconds"}
	request  {"id", "seconds", "reply" or "base64"}
	drain    {"node", "done"}; so resume; and move, with "id"
	check    {"ok", "findings": [{"state": "ok", "warning" or "bad", "about", "text"}]}
	bundle   what [gone.Gone.Report] returns, with or without -o json
	bench    [{"kind", "count", "errors", "perSecond", "p50", "p99", "max"}]

# Completion

	source <(gone completion bash)      in ~/.bashrc
	source <(gone completion zsh)       in ~/.zshrc, after compinit
	gone completion fish | source       in ~/.config/fish/config.fish

Nodes and ids are completed, too, if the environment names the lock service and it answers
within a second, or GONE_TIMEOUT.

# Bench

	-for DURATION   in all; 4s
	-c N            how many send at a time; 1
	-size BYTES     of each message; 128

Without an ID it measures a handler of its own, which runs in this process under a random
id and in a cluster of its own: the lock service gets a few requests, and the nodes none. With
an ID, its handler gets messages of zeros; one that receives from Data alone gives empty
replies.
*/
package main
