module github.com/Diggs/go-one/examples/irc

go 1.25.0

require (
	github.com/Diggs/go-one v0.0.0
	github.com/Diggs/go-one/etcdlock v0.0.0
	github.com/Diggs/go-one/pglock v0.0.0
	github.com/jackc/pgx/v5 v5.13.0
	go.etcd.io/etcd/client/v3 v3.6.14
	github.com/alicebob/miniredis/v2 v2.40.0
	github.com/gomodule/redigo v1.9.3
	golang.org/x/term v0.43.0
)

require (
	github.com/pebbe/zmq4 v1.4.0 // indirect
	github.com/yuin/gopher-lua v1.1.1 // indirect
	golang.org/x/sync v0.20.0 // indirect
	golang.org/x/sys v0.44.0 // indirect
)

replace (
	github.com/Diggs/go-one => ../..
	github.com/Diggs/go-one/etcdlock => ../../etcdlock
	github.com/Diggs/go-one/pglock => ../../pglock
)
